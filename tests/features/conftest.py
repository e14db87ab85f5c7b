"""A real backbone with real weights on a few real images."""

import pytest

import hf_transfer
from hf_transfer.backbones.build import build_backbone
from hf_transfer.data.build import build_splits
from hf_transfer.recipe.schema import Data, Model

hf_transfer.register()


@pytest.fixture(scope="session")
def textile():
    """The textile images: 70 for training, 20 for validation, 20 for testing."""
    section = Data(
        source="package:textile",
        test_fraction=0.2,
        max_train_samples=70,
        max_validation_samples=20,
        max_test_samples=20,
    )
    return build_splits(section, ["test"], training=True)


@pytest.fixture
def lite0(textile):
    """EfficientNet-Lite0 with its ImageNet weights."""
    return build_backbone(Model(backbone="package:efficientnet_lite0"), textile.class_names, 0)
