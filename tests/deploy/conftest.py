"""The tiny model families, with weights under which different images get different logits."""

import importlib.util
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

family, family_named = _tiny.family, _tiny.family_named
checkpoint_of, vit_checkpoint = _tiny.checkpoint_of, _tiny.vit_checkpoint
_small_and_quiet = _tiny._small_and_quiet


@pytest.fixture
def lively():
    """Give a network random weights that let signals through, and running statistics that are none of the initial ones.

    Some tiny networks put out the same logits for every image, to the last bit: with those nothing would be compared.
    """

    def filled(network):
        generator = torch.Generator().manual_seed(0)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.data.normal_(1 if name.endswith("weight") else 0, 0.1, generator=generator)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
        return network.eval()

    return filled
