"""Mixup and CutMix: the arithmetic, the draw, and that it belongs to the images of a batch."""

import copy

import pytest
import torch

from hf_transfer.data.dataset import sample_seed
from hf_transfer.data.mixing import Mixing, blend, draw_box, paste

MIXUP, CUTMIX, BOTH = Mixing(0.4, 0.0, seed=7), Mixing(0.0, 1.0, seed=7), Mixing(0.4, 1.0, seed=7)
EITHER = pytest.mark.parametrize("mixing", [MIXUP, CUTMIX], ids=["mixup", "cutmix"])


def batch_of(count=4, height=12, width=10, first=0, channels_last=False):
    """Return a batch whose images have no value in common."""
    generator = torch.Generator().manual_seed(first)
    images = torch.arange(count)[:, None, None, None] + 0.9 * torch.rand(count, 3, height, width, generator=generator)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return {
        "pixel_values": images.contiguous(memory_format=layout),
        "labels": torch.arange(count) % 3,
        "keys": [sample_seed(0, 0, f"{first + number}") for number in range(count)],
    }


def shares(mixing, count, size=2):
    """Return the shares of this many tiny batches."""
    found = []
    for number in range(count):
        batch = {
            "pixel_values": torch.zeros(2, 1, size, size),
            "labels": torch.zeros(2, dtype=torch.int64),
            "keys": [number, 0],
        }
        found.append(mixing(batch)["share"][0])
    return torch.stack(found)


def is_mixup(batch, mixed):
    """A mixed value is of neither image."""
    images = batch["pixel_values"]
    own, others = mixed["pixel_values"] == images, mixed["pixel_values"] == images[mixed["partner"]]
    return not (own | others).any()


# Arithmetic


def test_blend__is_the_formula_image_by_image():
    images, partner = batch_of()["pixel_values"], torch.tensor([2, 0, 3, 1])
    found = blend(images, partner, 0.25)
    for position in range(4):
        expected = 0.25 * images[position] + 0.75 * images[partner[position]]
        torch.testing.assert_close(found[position], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(blend(images, partner, 1.0), images)
    assert torch.equal(blend(images, partner, 0.0), images[partner])


def test_paste__is_the_partners_box_pixel_by_pixel():
    images, partner = batch_of()["pixel_values"], torch.tensor([2, 0, 3, 1])
    found, share = paste(images, partner, (slice(3, 12), slice(0, 4)))
    expected = images.clone()
    for position in range(4):
        for row in range(3, 12):
            for column in range(4):
                expected[position, :, row, column] = images[partner[position], :, row, column]
    assert torch.equal(found, expected)
    assert share == pytest.approx(1 - 9 * 4 / 120, abs=1e-12)


def test_paste__nothing_and_everything():
    images, partner = batch_of()["pixel_values"], torch.tensor([2, 0, 3, 1])
    whole, nothing = (slice(0, 12), slice(0, 10)), (slice(5, 5), slice(0, 10))
    for box, expected, share in ((whole, images[partner], 0.0), (nothing, images, 1.0)):
        found, found_share = paste(images, partner, box)
        assert torch.equal(found, expected)
        assert found_share == share


def test_draw_box__lies_within_the_image_and_is_clipped_there():
    torch.manual_seed(0)
    boxes = [draw_box(40, 60, 0.75) for _ in range(2000)]  # half of each side: 20 x 30
    for rows, columns in boxes:
        assert 0 <= rows.start <= rows.stop <= 40
        assert 0 <= columns.start <= columns.stop <= 60
    heights, widths = ([span.stop - span.start for span in spans] for spans in zip(*boxes, strict=True))
    assert (max(heights), max(widths)) == (20, 30)
    assert (min(heights), min(widths)) == (10, 15)  # its centre in a corner
    centres = [(rows.start + rows.stop) / 2 for rows, _ in boxes if rows.stop - rows.start == 20]
    assert (min(centres), max(centres)) == (10, 30)
    # the centre is uniform: clipped in half of the cases along each side
    assert 0.45 < sum(height == 20 for height in heights) / 2000 < 0.58


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0), (0.0, 12)])
def test_draw_box__of_no_and_of_full_size(share, expected):
    torch.manual_seed(0)
    heights = [rows.stop - rows.start for rows, _ in (draw_box(12, 12, share) for _ in range(300))]
    assert max(heights) == expected


# Batches


def test_mixing__mixup_is_the_formula_of_the_share_it_reports():
    batch = batch_of()
    mixed = MIXUP(batch)
    images = batch["pixel_values"]
    for position, (partner, share) in enumerate(zip(mixed["partner"], mixed["share"], strict=True)):
        expected = share * images[position] + (1 - share) * images[partner]
        torch.testing.assert_close(mixed["pixel_values"][position], expected, atol=1e-6, rtol=1e-6)
    assert is_mixup(batch, mixed)
    assert len(set(mixed["share"].tolist())) == 1


def test_mixing__cutmix_pastes_one_rectangle_and_reports_the_pixels_left():
    clipped = set()
    for first in range(20):
        batch = batch_of(first=10 * first)
        mixed = CUTMIX(batch)
        images, found = batch["pixel_values"], mixed["pixel_values"]
        own = (found == images).all(dim=1)
        others = (found == images[mixed["partner"]]).all(dim=1)
        assert (own ^ others).all()
        torch.testing.assert_close(mixed["share"], own.float().mean(dim=(1, 2)))
        rectangle = others.any(dim=2).sum(dim=1) * others.any(dim=1).sum(dim=1)
        assert torch.equal(others.sum(dim=(1, 2)), rectangle)
        clipped.add(bool(others[0, 0].any() or others[0, :, 0].any()))
    assert clipped == {True, False}


@EITHER
@pytest.mark.parametrize("count", [2, 5])
def test_mixing__says_what_was_mixed_with_what(mixing, count):
    batch = batch_of(count)
    before = copy.deepcopy(batch)
    mixed = mixing(batch)
    assert set(mixed) == {"pixel_values", "labels", "partner", "share"}
    assert torch.equal(mixed["labels"], batch["labels"])
    assert mixed["partner"].dtype == torch.int64
    assert sorted(mixed["partner"].tolist()) == list(range(count))
    assert (mixed["partner"] != torch.arange(count)).all()
    assert mixed["share"].dtype == mixed["pixel_values"].dtype == torch.float32
    assert mixed["share"].shape == (count,)
    assert batch["keys"] == before.pop("keys")
    assert all(torch.equal(batch[name], before[name]) for name in before)  # the batch given stays as it is


@EITHER
@pytest.mark.parametrize("channels_last", [False, True])
def test_mixing__keeps_the_memory_layout(mixing, channels_last):
    mixed = mixing(batch_of(channels_last=channels_last))
    assert mixed["pixel_values"].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert mixed["pixel_values"].is_contiguous() == (not channels_last)
    assert torch.equal(mixed["pixel_values"], mixing(batch_of())["pixel_values"])


@EITHER
def test_mixing__an_image_alone_is_not_mixed(mixing):
    batch = batch_of(1)
    mixed = mixing(batch)
    assert torch.equal(mixed["pixel_values"], batch["pixel_values"])
    assert mixed["partner"].tolist() == [0]
    assert mixed["share"].tolist() == [1.0]
    assert set(mixed) == {"pixel_values", "labels", "partner", "share"}


# The draw


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixing__shares_are_those_of_the_beta_distribution(alpha):
    found = shares(Mixing(alpha, 0.0, seed=0), 3000)
    assert float(found.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(found.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)
    assert found.min() >= 0
    assert found.max() <= 1


def test_mixing__each_way_has_its_own_alpha():
    """An alpha of 0.01 draws 0 or 1, and one of 1,000 a half (of which CutMix clips less than half away)."""
    found = shares(Mixing(0.01, 1000.0, seed=0), 300, size=32)
    extremes = (found < 0.01) | (found > 0.99)
    assert 0.42 < extremes.float().mean() < 0.58
    found = shares(Mixing(1000.0, 0.01, seed=0), 300, size=32)
    assert 0.42 < ((found - 0.5).abs() < 0.06).float().mean() < 0.64  # a clipped box of CutMix may leave a half, too
    assert 0.18 < (found > 0.99).float().mean() < 0.32


def test_mixing__both_ways_take_half_of_the_batches_each():
    batches = [batch_of(first=first) for first in range(0, 1600, 4)]
    ways = [is_mixup(batch, BOTH(batch)) for batch in batches]
    assert 0.42 < sum(ways) / len(ways) < 0.58


def test_mixing__the_images_of_a_batch_decide():
    for mixing in (MIXUP, CUTMIX, BOTH):
        batch = batch_of(height=64, width=64)
        first = mixing(batch)
        torch.manual_seed(99)
        again = mixing(batch)
        assert all(torch.equal(first[name], again[name]) for name in first)
        other, moved, reordered = dict(batch), dict(batch), dict(batch)
        other["keys"] = [key + 1 for key in batch["keys"]]
        moved["keys"] = [*batch["keys"][:-1], batch["keys"][0]]  # one image of four is another
        reordered["keys"] = batch["keys"][::-1]
        seen = [first, mixing(other), mixing(moved), mixing(reordered)]
        seen.append(Mixing(mixing.mixup, mixing.cutmix, seed=8)(batch))
        assert len({mixed["pixel_values"].numpy().tobytes() for mixed in seen}) == 5


def test_mixing__leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    BOTH(batch_of())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 0.0), (-0.2, 0.0), (0.2, -1.0)])
def test_mixing__alphas_that_make_no_sense(mixup, cutmix):
    with pytest.raises(ValueError, match=f"expected mixup or cutmix above 0, none below; found {mixup} and {cutmix}"):
        Mixing(mixup, cutmix, seed=0)
