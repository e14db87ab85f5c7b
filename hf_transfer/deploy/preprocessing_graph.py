"""A checkpoint's preprocessing as the first part of an ONNX graph: decoded images in, logits out.

Image processors resize whole bytes to whole bytes, each library with its own rounding. ONNX's `Resize` follows none of them
(it is off by up to 13 of 255 steps beside Pillow), so the graph holds the libraries' arithmetic itself: each axis is one
product with a matrix of resampling weights, which the graph computes from the size of the image. Which rounding a processor
has is not assumed but found by showing images to it and to the candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.transforms import Preprocessing
from ..errors import UserError
from .onnx_graph import run_onnx

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_PILLOW_BITS = 22
_SAME = 0.01  # of a step of a byte: what is nearer is the same byte, the rest is the rounding of the normalisation
# Sizes of the images that are shown to an image processor: square, large, portrait, and so many shapes that, whatever the
# length of the shorter side, some leave a half pixel beside the crop that the two ways of rounding put on different sides.
_SHOWN = ((300, 300), (391, 700), (437, 283), *((100, 100 + 7 * number) for number in range(1, 13)))


class Variant(NamedTuple):
    """How a library rounds.

    Args:
        arithmetic: of resizing: "pillow" (weights of 22 bits) or "int16" (torch on bytes: weights of 16 bits).
        crop: where a centre crop begins that has half a pixel over: "Floor" or "Round" (to even), operators of ONNX.
    """

    arithmetic: str
    crop: str


VARIANTS = tuple(itertools.starmap(Variant, itertools.product(("pillow", "int16"), ("Floor", "Round"))))


@dataclass(frozen=True)
class Geometry:
    """What becomes of an image's size.

    Args:
        resize: (height, width), or the length of the shorter side.
        crop: (height, width) of the centre crop; None where there is none.
        interpolation: "bilinear" or "bicubic".
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None
    interpolation: str


def add_preprocessing(path: Path, preprocessing: Preprocessing, images: Sequence[Image.Image]) -> dict[str, Any]:
    """Put preprocessing in front of the network in an ONNX file, in place.

    The new input is `images`, uint8 [n, height, width, 3], RGB, upright, any size (one size in a batch).

    Args:
        path: the file, its input named `pixel_values`.
        preprocessing: of the checkpoint.
        images: real images to measure the difference on, besides synthetic ones of several shapes.

    Returns:
        {"resize", "crop", "interpolation", "arithmetic", "max_difference_in_steps"}: what the graph does, and its largest
        difference to the image processor, in the network's input, as a share of what one step of a byte makes there.

    Raises:
        UserError: when the image processor does something that the graph does not know.
    """
    import onnx.compose

    if path.with_name(f"{path.name}.data").exists():
        raise UserError("--with-preprocessing: a network of more than 1.5 GB, whose weights are a second file, cannot take it")
    geometry = _geometry(preprocessing)
    network = onnx.load(path)
    noise = np.random.default_rng(0)
    shown = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in _SHOWN]
    step = float((preprocessing.high - preprocessing.low).max()) / 255
    part = path.with_name(f"preprocessing-{path.name}")
    differences = {}
    for variant in VARIANTS:
        _write(part, _build(network, preprocessing, geometry, variant))
        differences[variant] = _difference(part, preprocessing, shown) / step
        if differences[variant] < _SAME:
            differences[variant] = max(differences[variant], _difference(part, preprocessing, images) / step)
            break
    steps = min(differences.values())
    if steps >= _SAME:
        raise UserError(
            f"--with-preprocessing: no arithmetic that is known gives the bytes of {type(preprocessing.processor).__name__} "
            f"(nearest: {steps:.3g} of 255 steps away); export without it and prepare images as export.json says"
        )
    merged = onnx.compose.merge_models(onnx.load(part), network, io_map=[("prepared", "pixel_values")])
    merged.producer_name = network.producer_name
    part.unlink()
    _write(path, merged)
    return {
        "resize": geometry.resize,
        "crop": geometry.crop,
        "interpolation": geometry.interpolation,
        "arithmetic": variant.arithmetic,
        "max_difference_in_steps": steps,
    }


def _write(path: Path, model: Any) -> None:
    import onnx

    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


def _difference(path: Path, preprocessing: Preprocessing, images: Sequence[Image.Image]) -> float:
    """Return the largest difference between the graph's and the processor's inputs for these images; infinity for shapes."""
    session = run_onnx(path)
    largest = 0.0
    for image in images:
        found = session.run(None, {"images": np.asarray(image)[None]})[0][0]
        wanted = preprocessing(image).numpy()
        largest = max(largest, float(np.abs(found - wanted).max()) if found.shape == wanted.shape else math.inf)
    return largest


def _geometry(preprocessing: Preprocessing) -> Geometry:
    """Read from a processor's declaration what it does to sizes; whether that is all is found by comparison.

    Raises:
        UserError: when it declares something that the graph does not know.
    """
    processor = preprocessing.processor
    interpolation = preprocessing.interpolation.value
    size = getattr(processor, "size", None)
    config = getattr(processor, "data_config", None)
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = preprocessing.size
    if config:  # timm's
        scaled = tuple(math.floor(side / config["crop_pct"]) for side in preprocessing.size)
        if config.get("crop_mode", "center") == "squash":
            resize = (scaled[0], scaled[1])
        elif config.get("crop_mode", "center") == "center" and scaled[0] == scaled[1]:
            resize = scaled[0]
    elif size and getattr(processor, "do_resize", True):
        shortest, height, width = (getattr(size, key, None) for key in ("shortest_edge", "height", "width"))
        if height and width:
            resize, crop = (height, width), crop if getattr(processor, "do_center_crop", False) else None
        elif shortest and getattr(processor, "crop_pct", None) and shortest >= 384:  # ConvNeXt's
            resize, crop = (shortest, shortest), None
        elif shortest and not getattr(size, "longest_edge", None):
            resize = int(shortest / (getattr(processor, "crop_pct", None) or 1.0))
    if resize is None or interpolation not in _SUPPORT:
        raise UserError(
            f"--with-preprocessing: {type(processor).__name__} with {interpolation} interpolation and these sizes cannot be "
            "put into the graph (bilinear and bicubic can, to a fixed size or a shorter side); export without it"
        )
    return Geometry(resize, crop, interpolation)


class _Nodes:
    """Operators in the order they are called; a call returns the name of its result.

    Numbers among the inputs become constants: a float is a double, an integer int64.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        from onnx import helper

        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        name = f"prepare_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"prepare_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _build(network: Any, preprocessing: Preprocessing, geometry: Geometry, variant: Variant) -> Any:
    """Return the graph of the preprocessing as a model with the opset of the network."""
    from onnx import TensorProto, helper

    op = _Nodes()
    shape = op("Shape", "images")
    height, width = (op("Gather", shape, axis) for axis in (1, 2))
    pixels = op("Cast", op("Transpose", "images", perm=[0, 3, 1, 2]), to=TensorProto.DOUBLE)
    if isinstance(geometry.resize, int):
        shorter = op("Min", height, width)
        new_height, new_width = (op("Div", op("Mul", side, geometry.resize), shorter) for side in (height, width))
    else:
        new_height, new_width = (op("Identity", side) for side in geometry.resize)
    weights, unit = _weights(op, width, new_width, geometry.interpolation, variant.arithmetic)
    pixels = _bytes(op, op("MatMul", pixels, op("Transpose", weights, perm=[1, 0])), unit)
    weights, unit = _weights(op, height, new_height, geometry.interpolation, variant.arithmetic)
    pixels = _bytes(op, op("MatMul", weights, pixels), unit)
    if geometry.crop is not None:
        first = [
            _crop_begin(op, size, side, variant.crop) for size, side in zip((new_height, new_width), geometry.crop, strict=True)
        ]
        starts = op("Concat", *first, axis=0)
        pixels = op("Slice", pixels, starts, op("Add", starts, np.array(geometry.crop)), np.array([2, 3]))
    low, high = preprocessing.low.numpy()[:, None, None], preprocessing.high.numpy()[:, None, None]
    scaled = op("Mul", op("Cast", pixels, to=TensorProto.FLOAT), (high - low) / np.float32(255))
    op.nodes.append(helper.make_node("Add", [scaled, op._constant(low)], ["prepared"]))
    graph = helper.make_graph(
        op.nodes,
        "preprocessing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("prepared", TensorProto.FLOAT, ["batch", 3, *preprocessing.size])],
        op.constants,
    )
    return helper.make_model(graph, opset_imports=network.opset_import, ir_version=network.ir_version)


def _weights(op: _Nodes, size: str, new_size: str, interpolation: str, arithmetic: str) -> tuple[str, str]:
    """Return the matrix [new size, size] of whole numbers that resamples one axis, and what a weight of 1 is in it.

    The antialiased filters of Pillow (Resample.c, precompute_coeffs) and torch (UpSampleKernel.cpp), in double precision.
    """
    from onnx import TensorProto

    def real(value: str) -> str:
        return op("Cast", value, to=TensorProto.DOUBLE)

    scale = op("Div", real(size), real(new_size))
    filter_scale = op("Max", scale, 1.0)
    support = op("Mul", filter_scale, _SUPPORT[interpolation])
    rows = op("Unsqueeze", real(op("Range", 0, new_size, 1)), np.array([1]))
    center = op("Mul", op("Add", rows, 0.5), scale)
    begin = op("Floor", op("Max", op("Add", op("Sub", center, support), 0.5), 0.0))
    end = op("Floor", op("Add", op("Add", center, support), 0.5))
    column = real(op("Range", 0, size, 1))
    inside = op("And", op("GreaterOrEqual", column, begin), op("Less", column, end))
    offset = op("Mul", op("Add", op("Sub", column, center), 0.5), op("Div", 1.0, filter_scale))
    raw = op("Where", inside, _filter(op, op("Abs", offset), interpolation), 0.0)
    weights = op("Mul", raw, op("Div", 1.0, op("ReduceSum", raw, np.array([1]), keepdims=1)))
    if arithmetic == "pillow":
        unit = op("Identity", float(2**_PILLOW_BITS))
    else:  # as many bits as keep the largest weight below 2^15
        powers = 2.0 ** np.arange(1, _PILLOW_BITS + 1)
        largest = op("ReduceMax", weights, np.array([0, 1]), keepdims=0)
        fits = op("Less", op("Floor", op("Add", op("Mul", largest, powers), 0.5)), float(2**15))
        bits = op("ReduceSum", real(fits), np.array([0]), keepdims=0)
        unit = op("Pow", 2.0, bits)
    rounded = op("Floor", op("Add", op("Abs", op("Mul", weights, unit)), 0.5))
    return op("Mul", rounded, op("Sign", weights)), unit


def _filter(op: _Nodes, x: str, interpolation: str) -> str:
    """Return the filter at distances x >= 0: the triangle, or Keys' cubic with a = -0.5."""
    if interpolation == "bilinear":
        return op("Max", op("Sub", 1.0, x), 0.0)
    square, cube = op("Mul", x, x), op("Mul", op("Mul", x, x), x)
    near = op("Add", op("Sub", op("Mul", cube, 1.5), op("Mul", square, 2.5)), 1.0)
    # -0.5 x^3 + 2.5 x^2 - 4 x + 2
    far = op("Add", op("Sub", op("Sub", op("Mul", square, 2.5), op("Mul", cube, 0.5)), op("Mul", x, 4.0)), 2.0)
    return op("Where", op("Less", x, 1.0), near, op("Where", op("Less", x, 2.0), far, 0.0))


def _bytes(op: _Nodes, sums: str, unit: str) -> str:
    """Return sums of weighted pixels as whole bytes, which are kept as doubles."""
    return op("Clip", op("Floor", op("Div", op("Add", sums, op("Div", unit, 2.0)), unit)), 0.0, 255.0)


def _crop_begin(op: _Nodes, size: str, side: int, rounding: str) -> str:
    """Return where a centre crop of length `side` begins, int64 [1]."""
    from onnx import TensorProto

    over = op("Cast", op("Sub", size, side), to=TensorProto.DOUBLE)
    begin = op("Cast", op(rounding, op("Div", over, 2.0)), to=TensorProto.INT64)
    return op("Unsqueeze", begin, np.array([0]))
