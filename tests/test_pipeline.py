import pytest

from hf_transfer.pipeline import needs_hub
from hf_transfer.recipe import parse_recipe


@pytest.mark.parametrize(
    ("backbone", "source", "expected"),
    [
        ("package:efficientnet_lite0", "package:textile", False),
        ("torchvision:resnet18", "package:digits", False),
        ("timm:resnet18", "package:digits", True),
        ("google/vit-base-patch16-224", "package:digits", True),
        ("package:efficientnet_lite0", "uoft-cs/cifar10", True),
        (".", ".", False),
    ],
)
def test_needs_hub__only_where_something_may_come_from_there(backbone, source, expected):
    recipe = parse_recipe({"output_dir": "x", "data": {"source": source}, "model": {"backbone": backbone}})
    assert needs_hub(recipe) is expected
