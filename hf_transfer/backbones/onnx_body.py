"""A frozen network as an ONNX graph inside a torch module: its bytes are a buffer, onnxruntime computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import BackboneError, require

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxBody(nn.Module):
    """Images to features, computed by onnxruntime on the CPU, without gradient.

    The graph is part of the state dict, so it is saved in model.safetensors with everything else. The session that runs it is
    not: it is made from the bytes when it is first needed, and anew after loading, copying or unpickling.

    Args:
        graph: uint8 [bytes], a serialised ONNX model with one input, float32 [n, 3, height, width], and one output [n, d].

    Raises:
        UserError: when onnxruntime is not installed.
    """

    graph: torch.Tensor

    def __init__(self, graph: torch.Tensor) -> None:
        super().__init__()
        require("onnxruntime", "export", "a model with an ONNX backbone")
        self.register_buffer("graph", graph)
        self._session: InferenceSession | None = None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features [n, d], on the device and in the dtype of the images [n, 3, height, width].

        Raises:
            BackboneError: when onnxruntime cannot read the graph, or torch is asked to export it.
        """
        if torch.compiler.is_exporting():
            raise BackboneError("its backbone is an ONNX graph already, which torch cannot export")
        if self._session is None:
            self._session = _session(self.graph)
        inputs = pixels.detach().to("cpu", torch.float32).contiguous().numpy()
        (features,) = self._session.run(None, {self._session.get_inputs()[0].name: inputs})
        return torch.from_numpy(features).to(pixels.device, pixels.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._session = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}


def _session(graph: torch.Tensor) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is in the exception
    try:
        return onnxruntime.InferenceSession(graph.cpu().numpy().tobytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, one for each thing that can be wrong with a graph
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(
            f"the model's ONNX graph ({graph.numel():,} bytes) cannot be read by onnxruntime {onnxruntime.__version__}: "
            f"{first}. The file is damaged, or this version is too old for it."
        ) from None
