"""What one image costs a backbone is measured without its weights."""

import pytest

from hf_transfer.data.build import build_splits
from hf_transfer.errors import BackboneError
from hf_transfer.recipe.schema import Data
from hf_transfer.studies.backbone_cost import measure_backbone


def test_measure_backbone__what_was_measured_goes_together():
    data = Data(source="package:textile", test_fraction=0.2, max_train_samples=32)
    images = build_splits(data, ("test",), training=True).tables["train"]
    cost = measure_backbone("package:efficientnet_lite0", ["a", "b", "c"], images)
    assert cost.name == "package:efficientnet_lite0" and cost.input_size == (224, 224)
    assert cost.parameters == 3_374_851 and cost.convolutional
    assert min(cost.latency_ms, cost.exact_seconds, cost.fast_seconds, cost.decode_seconds) > 0
    with pytest.raises(BackboneError):
        measure_backbone("package:efficientnet_lite9", ["a", "b", "c"], images)
