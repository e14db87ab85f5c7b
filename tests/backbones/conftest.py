"""The tiny model families, and what the tests of this folder share."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).parents[1] / "backbones" / "tiny_models.py")
_tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_tiny)

family, single_head_family = _tiny.family, _tiny.single_head_family
checkpoint_of, checkpoint = _tiny.checkpoint_of, _tiny.checkpoint
vit_checkpoint, distilled_checkpoint = _tiny.vit_checkpoint, _tiny.distilled_checkpoint
logits_of, _small_and_quiet = _tiny.logits_of, _tiny._small_and_quiet
