"""int8 copies of a classifier through onnxruntime, and frozen int8 backbones for a float head.

Static quantization (for convolutional networks) fixes the range of every activation by calibration images, dynamic quantization
(for networks of linear layers) measures it anew in each pass and needs none. docs/quantization.md has the figures behind the
choice of library and settings.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..backbones.backbone import Backbone
from ..backbones.heads import initialize_head
from ..backbones.hidden_head import saveable_processor
from ..backbones.transformers_models import label_arguments
from ..backbones.wrapper import TransferConfig, TransferForImageClassification
from ..data.dataset import ImageDataset
from ..data.loose_images import LooseImage, read_batches
from ..data.table import ImageTable
from ..data.transforms import Preprocessing
from ..errors import DataError, RunDirectoryError, UserError, listed, require
from ..evaluation.inference import prepare_model
from ..evaluation.labels import align_labels, model_class_names
from ..evaluation.predictions import Predictions
from ..evaluation.thresholds import model_thresholds
from ..features.extraction import probe_layers
from ..features.frozen import probe_heads
from ..metrics.arrays import predicted_classes
from ..metrics.multi_label import predicted_at
from ..metrics.paired import compare_paired
from ..metrics.ranking_verdict import compare_rankings
from ..run_directory import RunDirectory, replacing, write_json
from ..training.hardware import device_name, keep_freed_memory
from .destination import check_destination
from .onnx_graph import LogitsOnly, onnx_forward, write_onnx

if TYPE_CHECKING:
    from ..data.build import Splits

Mode = Literal["static", "dynamic"]
CALIBRATION_IMAGES = 128
"""How many training images static quantization looks at where nothing is said."""

_GRAPH, _REPORT, _PREDICTIONS = "model.int8.onnx", "quantize.json", "predictions"
_CPU = torch.device("cpu")
_BATCH = 32
_CALIBRATION_BATCH = 4  # every activation of the network is held at once; with 32 that is 4 GB for EfficientNet-Lite0
_TURNS, _WARM_UP, _LEAST_TIMINGS = 3, 2, 3
_VERSIONS = ("torch", "onnx", "onnxruntime", "transformers", "timm")


def natural_mode(backbone: Backbone) -> Mode:
    """Return the mode that suits a network: static where convolutions do the work, dynamic where linear layers do."""
    return "static" if backbone.is_convolutional else "dynamic"


def megabytes(backbone: Backbone) -> float:
    """Return the size of a model's weights in MB (10^6 bytes)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in backbone.model.state_dict().values()) / 1e6


def calibration_rows(images: Sized, count: int = CALIBRATION_IMAGES) -> np.ndarray:
    """Return the positions of the images that calibrate, int64: spread evenly over a table or list, always the same."""
    return np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64)


def calibration_batches(table: ImageTable, preprocessing: Preprocessing, rows: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield inputs, float32 [n, 3, height, width], for these images of a table."""
    data = ImageDataset(table, preprocessing)
    for part in np.array_split(rows, max(1, -(-len(rows) // _CALIBRATION_BATCH))):
        yield torch.stack([data[int(row)]["pixel_values"] for row in part])


class LooseInputs:
    """Inputs of images without labels, batch by batch: each pass reads them anew, so that only a few are held at a time.

    Args:
        images: what to read.
        preprocessing: of the model.

    Attributes:
        names: the images that the last pass has read so far.
        unreadable: name to reason of those that could not be read.
    """

    def __init__(self, images: Sequence[LooseImage], preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.names: list[str] = []
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield inputs, float32 [n, 3, height, width].

        Raises:
            UserError: when not one image can be read.
        """
        self.names.clear()
        for batch in read_batches(self.images, self.preprocessing, _CALIBRATION_BATCH, keep_images=False):
            self.unreadable |= dict(batch.unreadable)
            self.names += batch.names
            if batch.names:
                yield batch.pixels
        if not self.names:
            first = ": ".join(next(iter(self.unreadable.items())))
            raise UserError(f"--images: none of the {len(self.images)} images can be read ({first})")


def quantize_model(
    backbone: Backbone, path: Path, *, mode: Mode, calibration: Iterable[torch.Tensor] = (), exact: Path | None = None
) -> None:
    """Write a classifier as an ONNX file that computes with 8-bit integers: `pixel_values` [n, 3, H, W] to `logits` [n, C].

    Args:
        backbone: the classifier; it is put on the CPU in eval mode.
        path: the file.
        mode: "static" or "dynamic"; see `quantize_graph`.
        calibration: batches of inputs, float32 [n, 3, H, W]; for static quantization only.
        exact: where to keep the float32 ONNX file it is made from; None to keep it nowhere.

    Raises:
        UserError: when a package is missing, or the network cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="quantize-") as directory:
        source = exact or Path(directory, "model.onnx")
        _write_exact(backbone, LogitsOnly(backbone.model), source, "logits")
        quantize_graph(source, path, mode=mode, calibration=calibration)


def quantized_backbone(backbone: Backbone, calibration: Iterable[torch.Tensor], *, seed: int = 0) -> Backbone:
    """Return a backbone that computes with 8-bit integers, frozen for good, with a new linear head in float32.

    It is quantized statically, whatever the network: where ranges are measured in each pass, the features of an image would
    depend on the images beside it.

    Args:
        backbone: a float network, whose head gives the classes and is left behind.
        calibration: batches of inputs, float32 [n, 3, H, W].
        seed: of the head's initialisation.

    Raises:
        UserError: when a package is missing, the network cannot be exported, its head is more than linear, or its image
            processor cannot be saved beside our wrapper.
    """
    processor = saveable_processor(backbone.processor)
    stock = backbone.model.config
    width = sum(head.in_features for head in probe_heads(backbone))
    with tempfile.TemporaryDirectory(prefix="quantize-") as directory:
        source, path = Path(directory, "model.onnx"), Path(directory, _GRAPH)
        _write_exact(backbone, _Features(backbone), source, "features")
        quantize_graph(source, path, mode="static", calibration=calibration)
        graph = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    config = TransferConfig(
        library="onnx",
        architecture=getattr(stock, "architecture", None) or stock.model_type,
        arguments={"bytes": len(graph), "parameters": backbone.parameter_count},
        head={"path": "head", "in_features": width, "hidden": []},
        problem_type=stock.problem_type,
        **label_arguments(model_class_names(stock)),
    )
    model = TransferForImageClassification(config)
    model.get_buffer("network.body.graph").copy_(graph)
    initialize_head(model.get_submodule("network.head"), seed)
    return Backbone(model, processor, ("network.head",), backbone.provenance)


def quantize_graph(source: Path, path: Path, *, mode: Mode, calibration: Iterable[torch.Tensor] = ()) -> None:
    """Write an int8 copy of a float32 ONNX file, as ONNX.

    Weights are int8 with a scale for each output channel (one scale for a whole depthwise convolution costs a third of the
    accuracy). Static: activations are uint8, between the smallest and the largest value that calibration images give, behind
    every operator that has an int8 kernel but the normalisation inside a group norm (with convolutions and linear layers alone,
    ranges would be those in front of the activation function, which costs accuracy); the file marks them by pairs of
    QuantizeLinear and DequantizeLinear. Dynamic: linear layers only (convolutions would be slower than in float32), activations
    uint8 by the range of each pass, so that an image's logits depend a little on the batch it comes in; the file holds
    DynamicQuantizeLinear and MatMulInteger.

    Args:
        source: the float32 file.
        path: the int8 file.
        mode: "static" or "dynamic".
        calibration: batches of the graph's input.

    Raises:
        ValueError: static quantization without calibration images.
        UserError: when a package is missing.
    """
    require("onnx", "export", "quantization")
    require("onnxruntime", "export", "quantization")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with _quiet(), tempfile.TemporaryDirectory(prefix="quantize-") as directory:
        prepared, written = Path(directory, "prepared.onnx"), Path(directory, "int8.onnx")
        quant_pre_process(source, prepared)
        if mode == "dynamic":
            quantize_dynamic(
                prepared, written, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
            )
        else:
            graph = onnx.load(prepared, load_external_data=False).graph
            reader = _Reader(graph.input[0].name, calibration)
            quantize_static(
                prepared,
                written,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod.MinMax,
                # What group norm is exported as; all share one bias, whose copies onnxruntime gives names that others have.
                nodes_to_exclude=[node.name for node in graph.node if node.op_type == "InstanceNormalization"],
            )
        with replacing(path) as temporary:
            temporary.write_bytes(written.read_bytes())


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or in which something would be lost; writes nothing.

    Raises:
        UserError: naming what is there.
    """
    check_destination(output / _GRAPH, "--output")
    check_destination(output.absolute().parent, "--output")  # a folder that is there is replaced as a whole
    there = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    foreign = [name for name in there if name not in (_GRAPH, _REPORT, _PREDICTIONS)]
    if foreign:
        raise UserError(f"--output: {output} holds other files ({listed(foreign, 3)}); choose another folder")
    if there and not overwrite:
        raise UserError(f"--output: {output} holds a quantized model; choose another folder, or replace it with --overwrite")


def quantize_run(
    directory: RunDirectory,
    backbone: Backbone,
    output: Path,
    *,
    mode: Mode,
    calibration_images: int = CALIBRATION_IMAGES,
    images: LooseInputs | None = None,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Quantize the model of a finished run, and score the copy on the run's test split beside the float model.

    What the float model said is read from the run's predictions file; the copy's predictions are written as another one.

    Args:
        directory: the run.
        backbone: its model.
        output: the folder to write: model.int8.onnx, quantize.json, predictions/test.parquet; replaced when it is there.
        mode: "static" or "dynamic".
        calibration_images: how many images of the training split calibrate.
        images: other images, to calibrate with instead.
        seconds: about how long the comparison of speed may take.

    Returns:
        What stands in quantize.json.

    Raises:
        UserError: when the run is not finished, its images have changed, or the network cannot be quantized.
    """
    float_predictions = _read_predictions(directory)
    splits = _splits_of(directory)
    calibration: _Calibration | None = None
    if mode == "static" and images is not None:
        calibration = _Calibration("other images", images.names, images)
    elif mode == "static":
        train = splits.tables["train"]
        rows = calibration_rows(train, calibration_images)
        names = [str(train.sample_ids[row]) for row in rows]
        calibration = _Calibration("training split", names, calibration_batches(train, backbone.preprocessing, rows))

    def score(path: Path, folder: Path) -> dict[str, Any]:
        table = splits.tables["test"]
        alignment = align_labels(splits.class_names, model_class_names(backbone.model.config), None)
        logits = alignment.apply(_int8_logits(path, ImageDataset(table, backbone.preprocessing)))
        limits = float_predictions.thresholds
        predicted = predicted_classes(logits) if limits is None else predicted_at(logits, limits)
        found = Predictions.of(table, logits, predicted, splits.class_names, limits)
        found.write(folder / _PREDICTIONS / "test.parquet")
        if found.sample_ids != float_predictions.sample_ids:
            raise DataError(f"{directory.predictions}: test.parquet speaks of other images than the run's test split")
        if limits is not None:
            return _compared_labels(float_predictions, found)
        comparison = compare_paired(
            float_predictions.labels == float_predictions.predicted, found.labels == np.asarray(found.predicted)
        )
        same = int((float_predictions.predicted == found.predicted).sum())
        accuracy = {"split": "test", **asdict(comparison), "difference_ci95": list(comparison.difference_ci95)}
        return {"accuracy": accuracy, "same_class": {"images": len(table), "count": same, "measured_on": "test images"}}

    return _write(str(directory.root), backbone, output, mode, calibration, score, seconds)


def _compared_labels(before: Predictions, after: Predictions) -> dict[str, Any]:
    """Return how the mean average precision of the copy differs, and on how many images it says the same classes."""
    same = int((before.predicted == after.predicted).all(axis=1).sum())
    told: dict[str, Any] = {"same_classes": {"images": len(before.labels), "count": same, "measured_on": "test images"}}
    groups = before.groups if before.groups is not None and len(set(before.groups)) > 1 else None
    if before.labels.any() and len(before.labels) > 1:
        found = compare_rankings(before.logits, after.logits, before.labels, groups)
        ranking = {"split": "test", **asdict(found), "difference_ci95": list(found.difference_ci95)}
        told["mean_average_precision"] = ranking
    return told


def quantize_other(
    name: str,
    backbone: Backbone,
    output: Path,
    *,
    mode: Mode,
    images: LooseInputs | None,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Quantize a model that is no run of ours; without labels, only the agreement with the float model is known.

    Args:
        name: what the report calls the model.
        backbone: the classifier.
        output: the folder to write: model.int8.onnx, quantize.json.
        mode: "static" or "dynamic".
        images: what static quantization calibrates with; in either mode the agreement is measured on them. None, for dynamic
            quantization alone, to measure none.
        seconds: about how long the comparison of speed may take.

    Raises:
        UserError: for static quantization without images, or a network that cannot be quantized.
    """
    if images is None and mode == "static":
        raise UserError("static quantization needs calibration images, and the model is no run with a training split: --images")

    def score(path: Path, folder: Path) -> dict[str, Any]:
        if images is None:
            return {}
        before, after = _torch_forward(backbone), onnx_forward(path)
        limits = model_thresholds(backbone.model.config)

        def answers(logits: np.ndarray) -> np.ndarray:
            return logits.argmax(axis=1)[:, None] if limits is None else predicted_at(logits, limits)

        same = [(answers(before(pixels)) == answers(after(pixels))).all(axis=1) for pixels in images]
        agreement = np.concatenate(same)
        measured_on = "calibration images" if mode == "static" else "other images"
        key = "same_class" if limits is None else "same_classes"
        return {key: {"images": len(agreement), "count": int(agreement.sum()), "measured_on": measured_on}}

    calibration = _Calibration("other images", images.names, images) if images is not None and mode == "static" else None
    return _write(name, backbone, output, mode, calibration, score, seconds)


def compare_speed(
    forwards: Mapping[str, Callable[[torch.Tensor], Any]], size: tuple[int, int], seconds: float
) -> dict[str, dict[str, float]]:
    """Time several networks, each three times in turn, so that whatever else the machine does falls on all of them.

    Each turn lasts a while and begins with untimed passes: the idle threads of one library go on spinning for some time and
    would slow the next one down.

    Args:
        forwards: name to a function of float32 [n, 3, height, width].
        size: (height, width) of the input.
        seconds: about how long this may take; in each turn there are three timings at least.

    Returns:
        For each name the latency of one image (median and 95th percentile, in milliseconds) and the throughput in images per
        second, in batches of 32.
    """
    generator = torch.Generator().manual_seed(0)
    taken: dict[tuple[str, int], list[float]] = {}
    turn = seconds / (2 * _TURNS * len(forwards))
    for count in (1, _BATCH):
        pixels = torch.rand((count, 3, *size), generator=generator)
        for name, forward in [*forwards.items()] * _TURNS:
            for _ in range(_WARM_UP):
                forward(pixels)
            end, times = time.perf_counter() + turn, taken.setdefault((name, count), [])
            least = len(times) + _LEAST_TIMINGS
            while len(times) < least or time.perf_counter() < end:
                began = time.perf_counter()
                forward(pixels)
                times.append(time.perf_counter() - began)
    return {
        name: {
            "latency_ms": 1e3 * statistics.median(taken[name, 1]),
            "latency_p95_ms": 1e3 * float(np.quantile(taken[name, 1], 0.95)),
            "images_per_second": _BATCH / statistics.median(taken[name, _BATCH]),
        }
        for name in forwards
    }


class _Features(nn.Module):
    """A backbone up to its head, one function of pixels without state, as torch.export wants it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.model = backbone.model
        self.layers = probe_layers(backbone)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        entered: list[torch.Tensor] = []

        def see(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            entered.append(inputs[0])

        hooks = [self.model.get_submodule(layer).register_forward_pre_hook(see) for layer in self.layers]
        try:
            self.model(pixel_values=pixel_values)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(entered, dim=-1) if len(entered) > 1 else entered[0]


def _write_exact(backbone: Backbone, module: nn.Module, path: Path, output_name: str) -> None:
    prepare_model(backbone.model, _CPU, channels_last=False)
    write_onnx(module, torch.zeros(2, 3, *backbone.preprocessing.size), path, output_name=output_name)


class _Reader:
    """Calibration images as onnxruntime asks for them, one batch after another."""

    def __init__(self, name: str, batches: Iterable[torch.Tensor]) -> None:
        self.name, self.batches, self.seen = name, iter(batches), 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        batch = next(self.batches, None)
        if batch is None:
            if not self.seen:
                raise ValueError("static quantization needs calibration images, found none")
            return None
        self.seen += len(batch)
        return {self.name: batch.contiguous().numpy()}


@dataclass(frozen=True)
class _Calibration:
    """What fixes the ranges of activations.

    Args:
        source: where the images are from.
        names: theirs; complete when the batches have been read.
        batches: their inputs, float32 [n, 3, height, width].
    """

    source: str
    names: list[str]
    batches: Iterable[torch.Tensor]

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {"source": self.source, "images": len(self.names), "names": list(self.names)}


def _write(
    name: str,
    backbone: Backbone,
    output: Path,
    mode: Mode,
    calibration: _Calibration | None,
    score: Callable[[Path, Path], dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Quantize, score, time, and put the folder in place when all of it is there."""
    keep_freed_memory()
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as folder, tempfile.TemporaryDirectory(prefix="quantize-") as scratch:
        folder.mkdir()
        path, exact = folder / _GRAPH, Path(scratch, "model.onnx")
        quantize_model(backbone, path, mode=mode, calibration=calibration.batches if calibration else (), exact=exact)
        preprocessing = backbone.preprocessing
        report = {
            "model": name,
            "mode": mode,
            "weights": "int8, per channel",
            "activations": "uint8",
            "calibration": calibration.facts() if calibration else None,
            "class_names": model_class_names(backbone.model.config),
            "input": {
                "name": "pixel_values",
                "dtype": "float32",
                "shape": ["batch", 3, *preprocessing.size],
                "mean": preprocessing.mean.tolist(),
                "std": preprocessing.std.tolist(),
            },
            "processor": _processor_facts(backbone),
            "size_mb": {
                "float": megabytes(backbone),
                "int8": path.stat().st_size / 1e6,
            },
            **score(path, folder),
            "speed": {
                "device": device_name(_CPU),
                "threads": torch.get_num_threads(),
                "batch_size": _BATCH,
                **compare_speed(
                    {
                        "torch_fp32": _torch_forward(backbone),
                        "onnxruntime_fp32": onnx_forward(exact),
                        "onnxruntime_int8": onnx_forward(path),
                    },
                    preprocessing.size,
                    seconds,
                ),
            },
            "versions": {package: importlib.metadata.version(package) for package in _VERSIONS},
        }
        write_json(folder / _REPORT, report)
    return report


def _processor_facts(backbone: Backbone) -> dict[str, Any]:
    """Return the settings of the image processor, so that images can be prepared without the checkpoint."""
    settings = json.loads(backbone.processor.to_json_string())
    return {key: value for key, value in settings.items() if not key.endswith("name_or_path")}


def _torch_forward(backbone: Backbone) -> Callable[[torch.Tensor], np.ndarray]:
    prepare_model(backbone.model, _CPU, channels_last=backbone.is_convolutional)
    layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format

    def forward(pixels: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return backbone.model(pixel_values=pixels.contiguous(memory_format=layout)).logits.numpy()

    return forward


def _int8_logits(path: Path, data: ImageDataset) -> np.ndarray:
    forward = onnx_forward(path)
    parts = []
    with tqdm(total=len(data), desc="int8 on test", unit="image", leave=False, disable=None) as bar:
        for start in range(0, len(data), _BATCH):
            rows = range(start, min(start + _BATCH, len(data)))
            parts.append(forward(torch.stack([data[row]["pixel_values"] for row in rows])))
            bar.update(len(rows))
    return np.concatenate(parts)


def _read_predictions(directory: RunDirectory) -> Predictions:
    if not directory.is_finished:
        raise RunDirectoryError(
            f"{directory.root}: expected a finished run; continue it with 'hf-transfer run RECIPE --resume'"
        )
    path = directory.predictions / "test.parquet"
    if not path.is_file():
        raise RunDirectoryError(
            f"{directory.root}: the run has not scored a test split, so accuracy before and after cannot be compared; "
            f"quantize {directory.model} with --images instead"
        )
    return Predictions.read(path)


def _splits_of(directory: RunDirectory) -> Splits:
    """Read the run's images again, and make sure that they are the same."""
    from ..data.build import build_splits
    from ..recipe import load_recipe

    recipe = load_recipe(directory.recipe)
    splits = build_splits(recipe.data, ["test"], training=True)
    known = json.loads(directory.environment.read_text(encoding="utf-8"))["data_fingerprint"]
    if splits.fingerprint != known:
        raise DataError(
            f"{recipe.data.source}: its images or labels are not those of the run {directory.root} any more, so nothing can be "
            f"compared; quantize {directory.model} with --images instead"
        )
    return splits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what onnxruntime's quantizer logs about its own steps off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
