import pytest

from hf_transfer.backbones.scratch.variant import KNOWN, Variant, parse_variant
from hf_transfer.errors import BackboneError

TRANSFORMER = {"depth": 12, "width": 256, "patch": 8, "size": 32, "norms": "in front", "classifiers": 1}


@pytest.mark.parametrize(
    ("name", "architecture", "arguments", "size"),
    [
        ("resnet18", "resnet", {"depth": 18}, 32),
        ("resnet34-gn-ms2", "resnet", {"depth": 34, "norm": "group", "mixstyle": 2}, 32),
        ("resnet50-ms1-wonorm@64", "resnet", {"depth": 50, "mixstyle": 1, "normalizer": "none"}, 64),
        ("resnet18-pcnorm", "resnet", {"depth": 18, "normalizer": "channel"}, 32),
        ("vit-12x256-8x8", "vision_transformer", {**TRANSFORMER, "norms": "behind"}, 32),
        ("vitn-12x256-8x8-ra", "vision_transformer", {**TRANSFORMER, "relative": True}, 32),
        (
            "vitn-12x256-8x8-dm-lt",
            "vision_transformer",
            {**TRANSFORMER, "masked_diagonal": True, "temperature": "exponential"},
            32,
        ),
        ("vitn-12x256-8x8-ltv", "vision_transformer", {**TRANSFORMER, "temperature": "plain"}, 32),
        ("vit-aux-3x4x256-8x8", "vision_transformer", {**TRANSFORMER, "norms": "behind", "classifiers": 3}, 32),
        (
            "vitn-12x768-16x16@224",
            "vision_transformer",
            {**TRANSFORMER, "width": 768, "patch": 16, "size": 224},
            224,
        ),
        ("toy-dilated", "dilated", {}, 32),
        ("lenet@40", "lenet", {"size": 40}, 40),
    ],
)
def test_parse_variant__name_to_arguments(name, architecture, arguments, size):
    assert parse_variant(name) == Variant(architecture, arguments, size)


@pytest.mark.parametrize("name", KNOWN)
def test_parse_variant__what_messages_list_is_known(name):
    assert parse_variant(name).size in (32, 224)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20", f"unknown network scratch:resnet20 (did you mean 'resnet50'?); known: {', '.join(KNOWN)}"),
        (
            "resnet18-tnc",
            "unknown network scratch:resnet18-tnc (did you mean 'resnet18-gn'?); resnet18 has no variant '-tnc', it takes -gn, "
            f"-wonorm, -pcnorm, -ms1, -ms2, -ms3; known: {', '.join(KNOWN)}",
        ),
        (
            "vit-3x4x256-8x8",
            f"unknown network scratch:vit-3x4x256-8x8 (did you mean 'vit-aux-3x4x256-8x8'?); known: {', '.join(KNOWN)}",
        ),
        (
            "lenet-gn",
            "unknown network scratch:lenet-gn (did you mean 'lenet'?); lenet has no variant '-gn', it takes no endings; "
            f"known: {', '.join(KNOWN)}",
        ),
        (
            "resnet18-ms4",
            "scratch:resnet18-ms4: MixStyle after stage 4 is refused: at 32 x 32 pixels its maps are 1 x 1, which have a mean "
            "but no deviation, so whole features would be mixed, not styles, and labels are not mixed with them; expected "
            "-ms1, -ms2 or -ms3",
        ),
        (
            "resnet18-ms3@16",
            "scratch:resnet18-ms3@16: MixStyle after stage 3 needs maps larger than 1 x 1, which have a mean but no deviation; "
            "images of 16 x 16 pixels give 1 x 1 there. Expected at most 2 stages, or larger images",
        ),
        (
            "resnet18-ms1@4",
            "scratch:resnet18-ms1@4: MixStyle after stage 1 needs maps larger than 1 x 1, which have a mean but no deviation; "
            "images of 4 x 4 pixels give 1 x 1 there. Expected no MixStyle at this size, or larger images",
        ),
        (
            "vit-12x256-8x8@4",
            "scratch:vit-12x256-8x8@4: images of 4 x 4 pixels are smaller than a patch of 8 x 8",
        ),
        (
            "vit-12x256-8x8@36",
            "scratch:vit-12x256-8x8@36: expected an image size that is a multiple of the patch's 8 pixels, found 36",
        ),
        (
            "vitn-12x250-8x8",
            "scratch:vitn-12x250-8x8: expected a width that is a multiple of 64, the width of a head, found 250",
        ),
        ("vitn-0x256-8x8", "scratch:vitn-0x256-8x8: expected at least one block, and a patch of at least one pixel"),
        ("lenet@8", "scratch:lenet@8: expected images of at least 16 x 16 pixels, found 8"),
        ("toy-dilated@0", "scratch:toy-dilated@0: expected an image size of at least 1 pixel, found 0"),
        ("vitn-12x256-8x8-lt-ltv", "scratch:vitn-12x256-8x8-lt-ltv: expected at most one of -lt, -ltv"),
    ],
)
def test_parse_variant__refused(name, message):
    with pytest.raises(BackboneError) as caught:
        parse_variant(name)
    assert str(caught.value) == f"model.backbone: {message}"
