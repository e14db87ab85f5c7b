"""A PyTorch module as an ONNX file: written with a dynamic batch, checked, and opened with onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UserError, require

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Of the opsets that torch's exporter writes itself, the first in which GELU, common in image models, is one operator.
DEFAULT_OPSET = 20
# What torch's exporter writes itself; other opsets would go through a converter that may fail.
OPSETS = range(18, 24)


class LogitsOnly(nn.Module):
    """A classifier of the transformers kind as a function of one tensor to one tensor.

    Args:
        model: called with `pixel_values` it returns an output with `logits`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, C] of inputs [n, 3, H, W]."""
        return self.model(pixel_values=pixel_values).logits


def write_onnx(
    module: nn.Module,
    example: torch.Tensor,
    path: Path,
    *,
    output_name: str = "logits",
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module as an ONNX file that takes any number of images, through `torch.export`.

    The weights stand in the file itself; only above 1.5 GB (a protobuf holds 2 GB) in a second file, PATH.data. Names of
    Python modules and source lines, which the exporter leaves in every node, are removed. Both files appear under their
    names only when they are whole and `onnx.checker` has passed them, shape inference included.

    Args:
        module: takes one tensor and returns one; weights in float32 on the CPU. It is put in eval mode.
        example: an input of the module, [n, ...]; its dtype and its other sizes become those of the file's input.
        path: the file; one that is there is replaced.
        output_name: name of the output; that of the input is `pixel_values`.
        opset: version of ONNX's operators, one of `OPSETS`.
        metadata: names and values that the file is to carry (`session.get_modelmeta().custom_metadata_map`).

    Raises:
        UserError: when onnx or onnxscript is missing, the opset is none of `OPSETS`, or the network has an operation that
            cannot be exported or that fixes the number of images.
    """
    require("onnx", "export", "writing ONNX")
    require("onnxscript", "export", "writing ONNX")
    if opset not in OPSETS:
        raise UserError(f"opset: expected a number from {OPSETS[0]} to {OPSETS[-1]}, found {opset}")
    if len(example) == 1:
        example = example.repeat(2, *[1] * (example.ndim - 1))  # torch.export takes a size of 1 for a constant
    with quiet_exporter():
        program = _export(module.eval(), example, output_name, opset)
        import onnx
        from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)
        program.model.metadata_props.update(metadata or {})
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
            temporary = Path(directory, path.name)  # the name itself: a second file is named after the first, in the first
            program.save(temporary)
            onnx.checker.check_model(str(temporary), full_check=True)
            for written in sorted(Path(directory).iterdir(), reverse=True):  # weights first
                written.replace(path.with_name(written.name))


def run_onnx(path: Path) -> InferenceSession:
    """Return an onnxruntime session for an ONNX file, on the CPU, with as many threads as torch uses in this process.

    Raises:
        UserError: when onnxruntime is missing.
    """
    require("onnxruntime", "export", "running ONNX")
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_forward(path: Path) -> Callable[[torch.Tensor], np.ndarray]:
    """Return an ONNX file of one input and one output as a function of float32 [n, 3, height, width]."""
    session = run_onnx(path)
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels.contiguous().numpy()})[0]


def _export(module: nn.Module, example: torch.Tensor, output_name: str, opset: int) -> Any:
    # Attention kernels lay out their result differently. Traced as plain mathematics, what follows makes no assumption
    # about it (the fused kernel of the CPU lets `reshape` be recorded as a view that fails for Swin and BEiT).
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["pixel_values"],
                output_names=[output_name],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(f"{network_name(module)} cannot be exported to ONNX: {cause(error)}") from None
    assert program is not None
    batch = next(iter(program.model.graph.inputs[0].shape or ()))
    if isinstance(batch, int):  # the exporter's last resort, of which it says nothing
        raise UserError(f"{network_name(module)} cannot be exported to ONNX: its computation fixes the size of batch ({batch})")
    return program


def network_name(module: nn.Module) -> str:
    """Return what a message calls a network: its class, or that of the model inside `LogitsOnly`."""
    return type(module.model if isinstance(module, LogitsOnly) else module).__name__


def cause(error: BaseException) -> str:
    """Return the kind and the first line of the error at the bottom, without the exporter's general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's warnings, log and prints, which speak of its own internals, off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    unread = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
