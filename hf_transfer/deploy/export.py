"""A classifier as files that run without this package: ONNX and torch.export, checked on real images and timed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from ..backbones.backbone import Backbone
from ..errors import UserError, listed, require
from ..evaluation.inference import forward_logits, prepare_model
from ..evaluation.labels import model_class_names
from ..evaluation.thresholds import model_thresholds
from ..metrics.multi_label import predicted_at
from ..run_directory import write_json
from ..training.hardware import device_name
from .destination import check_destination
from .onnx_graph import DEFAULT_OPSET, LogitsOnly, cause, network_name, onnx_forward, quiet_exporter, run_onnx, write_onnx
from .preprocessing_graph import add_preprocessing

FORMATS = ("onnx", "torch_export")
TOLERANCE = 1e-4
"""How far a logit may be from the checkpoint's: this, times the largest logit where that is above 1."""

_FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
_REPORT = "export.json"
_CPU = torch.device("cpu")
_PARITY_BATCH = 32
_TIMED_BATCHES = (8, 32)
_LEAST_TIMINGS = 5
_VERSIONS = ("torch", "transformers", "timm", "onnx", "onnxruntime", "onnxscript")

Forward = Callable[[torch.Tensor], np.ndarray]


@dataclass(frozen=True)
class Parity:
    """How the logits of an artefact compare with the checkpoint's on real images.

    Args:
        images: how many images.
        max_abs_difference: the largest difference between two logits.
        tolerance: what it may be at most.
        argmax_equal: on how many images the predicted class is the same; None where an image may show several.
        said_equal: on how many images the same classes reach their thresholds; None where an image shows one.
    """

    images: int
    max_abs_difference: float
    tolerance: float
    argmax_equal: int | None
    said_equal: int | None = None

    @classmethod
    def of(cls, reference: np.ndarray, found: np.ndarray, thresholds: np.ndarray | None = None) -> Parity:
        """Compare float32 logits [n, C]; a NaN counts as infinitely far. `thresholds` [C] where an image may show several."""
        answers, equal = reference.argmax(axis=1) == found.argmax(axis=1), None
        if thresholds is not None:
            equal = int((predicted_at(reference, thresholds) == predicted_at(found, thresholds)).all(axis=1).sum())
        difference = np.abs(reference - found).max(initial=0.0)
        return cls(
            images=len(reference),
            max_abs_difference=float(difference) if np.isfinite(difference) else float(np.finfo(np.float32).max),
            tolerance=TOLERANCE * max(1.0, float(np.abs(reference).max(initial=0.0))),
            argmax_equal=int(answers.sum()) if thresholds is None else None,
            said_equal=equal,
        )

    @property
    def passed(self) -> bool:
        """Whether the artefact may stand for the checkpoint."""
        same = self.argmax_equal if self.said_equal is None else self.said_equal
        return self.max_abs_difference <= self.tolerance and same == self.images

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {name: value for name, value in vars(self).items() if value is not None} | {"passed": self.passed}


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds an export already or cannot be written.

    Raises:
        UserError: naming what is there.
    """
    check_destination(output / _REPORT, "--output")
    there = [path.name for path in _known_files(output) if path.exists()]
    if there and not overwrite:
        raise UserError(f"--output: {output} holds {listed(there)}; choose another folder, or replace them with --overwrite")


def export_model(
    backbone: Backbone,
    output: Path,
    *,
    name: str,
    images: Sequence[Image.Image],
    formats: Sequence[str] = ("onnx",),
    opset: int = DEFAULT_OPSET,
    preprocessing: bool = False,
    overwrite: bool = False,
    seconds: float = 12.0,
) -> dict[str, Any]:
    """Write a classifier in each format and `export.json` beside them, once every artefact has given the checkpoint's logits.

    Where one does not, nothing is written, and what was there stays. An export that is replaced is removed whole, so that
    the report and the files always belong together.

    Args:
        backbone: the classifier with its own head; it is put on the CPU in eval mode, in float32.
        output: the folder; made where there is none.
        name: what the report calls the model.
        images: RGB images to compare logits on, at least one.
        formats: of `FORMATS`.
        opset: version of ONNX's operators.
        preprocessing: let the ONNX file take images as they are decoded (uint8 [n, H, W, 3], RGB, all of one size) instead of
            prepared ones (float32 [n, 3, H, W]).
        overwrite: replace an export that is there.
        seconds: about how long the timing may take.

    Returns:
        What stands in export.json; `passed` says whether every artefact agreed, and so whether anything was written.

    Raises:
        UserError: for an unknown format, a missing package, an export that is in the way, or a network or an image processor
            that cannot be exported.
    """
    _check(formats, images, preprocessing)
    check_output(output, overwrite=overwrite)
    prepare_model(backbone.model, _CPU, channels_last=False)
    missing = [folder for folder in (output, *output.parents) if not folder.exists()]
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=output, prefix=".export.") as directory:
            report = _export(backbone, Path(directory), name, images, formats, opset, preprocessing, seconds)
            if report["passed"]:
                _put_in_place(Path(directory), output, report)
    finally:
        for folder in missing:
            if not any(folder.iterdir()):
                folder.rmdir()
    return report


def _check(formats: Sequence[str], images: Sequence[Image.Image], preprocessing: bool) -> None:
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise UserError(f"--format: expected {' or '.join(FORMATS)}, or both; found {listed(unknown) or 'none'}")
    if preprocessing and "onnx" not in formats:
        raise UserError("--with-preprocessing: only an ONNX file can take its preprocessing along; add onnx to --format")
    if not images:
        raise UserError("export: expected at least one image to compare logits on, found none")
    if "onnx" in formats:
        for module in ("onnx", "onnxscript", "onnxruntime"):
            require(module, "export", "format onnx")


def _export(
    backbone: Backbone,
    staging: Path,
    name: str,
    images: Sequence[Image.Image],
    formats: Sequence[str],
    opset: int,
    preprocessing: bool,
    seconds: float,
) -> dict[str, Any]:
    """Write the artefacts into a folder of their own and return the report on them."""
    facts = _facts(backbone)
    example = torch.zeros((2, 3, *backbone.preprocessing.size))
    runs: dict[str, Forward] = {}
    for kind in formats:
        path = staging / _FILES[kind]
        if kind == "onnx":
            metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}
            write_onnx(LogitsOnly(backbone.model), example, path, opset=opset, metadata=metadata)
            runs[kind] = onnx_forward(path)
        else:
            write_torch_export(LogitsOnly(backbone.model), example, path)
            runs[kind] = _torch_export_forward(path)
    prepare_model(backbone.model, _CPU, channels_last=backbone.is_convolutional)
    timing = _timing(backbone, runs, seconds)
    included = add_preprocessing(staging / _FILES["onnx"], backbone.preprocessing, images) if preprocessing else None
    parities = _compare(backbone, images, runs, staging / _FILES["onnx"] if preprocessing else None)
    prepared = {"dtype": "float32", "shape": ["batch", 3, *backbone.preprocessing.size], "name": "pixel_values"}
    artefacts = []
    for kind in formats:
        artefact: dict[str, Any] = {"format": kind, "files": _files(staging, _FILES[kind]), "input": prepared}
        if kind == "onnx":
            artefact |= {"opset": opset, "preprocessing": included}
            if included is not None:
                artefact["input"] = {"dtype": "uint8", "shape": ["batch", "height", "width", 3], "name": "images"}
        artefacts.append(artefact | {"parity": parities[kind].facts()})
    return {
        "model": name,
        "architecture": type(backbone.model).__name__,
        "passed": all(parity.passed for parity in parities.values()),
        **facts,
        "artefacts": artefacts,
        "timing": timing,
        "versions": {package: importlib.metadata.version(package) for package in _VERSIONS if _is_installed(package)},
    }


def _facts(backbone: Backbone) -> dict[str, Any]:
    """Return what whoever runs an artefact has to know: the classes in the order of the logits, and how inputs are made.

    Where an image may show several classes, each with a probability of its own, its threshold too.
    """
    preprocessing, thresholds = backbone.preprocessing, model_thresholds(backbone.model.config)
    several = {} if thresholds is None else {"activation": "sigmoid", "thresholds": thresholds.tolist()}
    return {
        "class_names": model_class_names(backbone.model.config),
        **several,
        "preprocessing": {
            "size": list(preprocessing.size),
            "interpolation": preprocessing.interpolation.value,
            "mean": [round(float(value), 6) for value in preprocessing.mean],
            "std": [round(float(value), 6) for value in preprocessing.std],
            "processor": type(preprocessing.processor).__name__,
            "declared": declared_processor(preprocessing.processor),
        },
    }


def declared_processor(processor: Any) -> dict[str, Any]:
    """Return all that an image processor declares (sizes, crop, resampling, channel order), as JSON holds it, without paths."""
    declared = {key: value for key, value in processor.to_dict().items() if not key.endswith("name_or_path")}
    return json.loads(json.dumps(declared, default=str))


def write_torch_export(module: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write a module with `torch.export.save`, for any number of images; `torch.export.load(path).module()` runs it.

    Args:
        module: takes one tensor and returns one. It is put in eval mode.
        example: an input of the module, at least two images.
        path: the file, .pt2.

    Raises:
        UserError: when the network has an operation that cannot be exported or that fixes the number of images.
    """
    with quiet_exporter(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            program = torch.export.export(
                module.eval(), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
        except Exception as error:  # torch.export raises what tracing raises: errors of many kinds
            raise UserError(f"{network_name(module)} cannot be exported with torch.export: {cause(error)}") from None
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, path)


def _torch_export_forward(path: Path) -> Forward:
    with quiet_exporter():
        module = torch.export.load(path).module()

    def forward(pixels: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return module(pixels).numpy()

    return forward


def _compare(
    backbone: Backbone, images: Sequence[Image.Image], runs: Mapping[str, Forward], with_preprocessing: Path | None
) -> dict[str, Parity]:
    """Return the parity of each format; an ONNX file that prepares images itself is given them one by one, as decoded."""
    session = None if with_preprocessing is None else run_onnx(with_preprocessing)
    reference: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in runs}
    for start in tqdm(range(0, len(images), _PARITY_BATCH), desc="compare logits", leave=False, disable=None):
        part = images[start : start + _PARITY_BATCH]
        pixels = torch.stack([backbone.preprocessing(image) for image in part])
        reference.append(forward_logits(backbone.model, pixels, _CPU))
        for kind, run in runs.items():
            if kind == "onnx" and session is not None:
                found[kind] += [session.run(None, {"images": np.asarray(image)[None]})[0] for image in part]
            else:
                found[kind].append(run(pixels))
    whole, thresholds = np.concatenate(reference), model_thresholds(backbone.model.config)
    return {kind: Parity.of(whole, np.concatenate(logits), thresholds) for kind, logits in found.items()}


def _timing(backbone: Backbone, runs: Mapping[str, Forward], seconds: float) -> dict[str, Any]:
    """Return latency and throughput of the network alone, the artefacts beside the checkpoint in torch, in turn.

    After each change from one to the other, one pass is not timed: threads of the one before may still be spinning.
    """
    layout = torch.channels_last if backbone.is_convolutional else torch.contiguous_format
    candidates: dict[str, Forward] = {"torch": lambda pixels: forward_logits(backbone.model, pixels, _CPU), **runs}
    generator = torch.Generator().manual_seed(0)
    took: dict[int, dict[str, list[float]]] = {}
    for size in (1, *_TIMED_BATCHES):
        pixels = torch.randn((size, 3, *backbone.preprocessing.size), generator=generator)
        inputs = {name: pixels.to(memory_format=layout) if name == "torch" else pixels for name in candidates}
        took[size] = {name: [] for name in candidates}
        end = time.perf_counter() + seconds / (1 + len(_TIMED_BATCHES))
        passes = 5 if size == 1 else 1
        while time.perf_counter() < end or len(took[size]["torch"]) < _LEAST_TIMINGS:
            for name, forward in candidates.items():
                forward(inputs[name])
                for _ in range(passes):
                    began = time.perf_counter()
                    forward(inputs[name])
                    took[size][name].append(time.perf_counter() - began)
    return {
        "device": device_name(_CPU),
        "threads": torch.get_num_threads(),
        "latency_ms": {
            name: {
                "median": 1000 * statistics.median(values),
                "p95": 1000 * float(np.percentile(values, 95)),
                "runs": len(values),
            }
            for name, values in took[1].items()
        },
        "images_per_second": {
            str(size): {name: size / statistics.median(values) for name, values in took[size].items()}
            for size in _TIMED_BATCHES
        },
    }


def _files(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return name, size and digest of an artefact's files: itself, and weights that stand beside it."""
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in (folder / name, folder / f"{name}.data")
        if path.exists()
    ]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _put_in_place(staging: Path, output: Path, report: dict[str, Any]) -> None:
    for path in _known_files(output):
        path.unlink(missing_ok=True)
    for artefact in report["artefacts"]:
        for file in artefact["files"]:
            (staging / file["name"]).replace(output / file["name"])
    write_json(output / _REPORT, report)


def _known_files(output: Path) -> list[Path]:
    names = [_REPORT, *(name for file in _FILES.values() for name in (file, f"{file}.data"))]
    return [output / name for name in names]


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
