"""What is done with every map: blank ones found, places, sizes, values for the eye."""

import pytest
import torch

from hf_transfer.commands.explain import METHODS as OFFERED
from hf_transfer.errors import UserError
from hf_transfer.explain.maps import METHODS, blank_reason, is_blank, method_named, normalized, peak, upsampled


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (torch.zeros(3, 4), "the map is constant: every place has the value 0"),
        (torch.full((3, 4), 0.25), "the map is constant: every place has the value 0.25"),
        (
            torch.full((3, 4), 0.25) + torch.arange(12).reshape(3, 4) * 1e-8,
            "the map is constant: every place has the value 0.25",
        ),
        (torch.tensor([[0.1, float("nan")]]), "the map is not finite: 1 of 2 values are NaN or infinite"),
        (torch.tensor([[float("inf"), float("inf")]]), "the map is not finite: 2 of 2 values are NaN or infinite"),
        (torch.tensor([[-0.5, 0.0], [-0.1, -0.2]]), "the map is empty: no place speaks for the class"),
    ],
)
def test_blank_reason__blank(raw, reason):
    assert blank_reason(raw) == reason
    assert is_blank(raw)
    assert (normalized(raw) == 0).all()


@pytest.mark.parametrize("raw", [torch.tensor([[0.0, 1e-12]]), torch.tensor([[-1.0, 0.01]]), torch.tensor([[5.0, 5.001]])])
def test_blank_reason__tells_places_apart(raw):
    assert blank_reason(raw) is None
    assert not is_blank(raw)


def test_normalized__negative_is_nothing_and_the_largest_is_one():
    found = normalized(torch.tensor([[-3.0, 0.0], [1.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [0.25, 1.0]]))


def test_normalized__the_smallest_value_is_zero():
    found = normalized(torch.tensor([[2.0, 3.0], [4.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.25], [0.5, 1.0]]))


def test_normalized__single_pixels_do_not_darken_a_fine_map():
    raw = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    raw[50, 50] = 1000.0
    found = normalized(raw)
    assert found.max() == 1.0
    assert found.median() > 0.4


def test_peak__centre_of_the_largest_cell():
    raw = torch.zeros(4, 2)
    raw[3, 0] = 1.0
    assert peak(raw, (32, 32)) == (8.0, 28.0)


def test_peak__middle_of_a_plateau():
    raw = torch.zeros(4, 4)
    raw[1:3, 1:4] = 1.0
    raw[3, 0] = 0.995  # as large, elsewhere
    assert peak(raw, (32, 32)) == (20.0, 16.0)


def test_peak__is_never_beside_the_plateau():
    raw = torch.ones(7, 7)
    raw[1:6, 1:6] = 0.0
    x, y = peak(raw, (7, 7))
    assert raw[int(y), int(x)] == 1.0
    assert (x, y) == (3.5, 0.5)  # of the four cells nearest to the middle the first


def test_upsampled__bilinear_with_cells_in_their_place():
    raw = torch.tensor([[[0.0, 1.0]]])
    found = upsampled(raw, (2, 4))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.25, 0.75, 1.0]] * 2]))


def test_method_named__unknown():
    with pytest.raises(UserError) as caught:
        method_named("grad-cam")
    assert str(caught.value) == (
        "no method is called 'grad-cam' (did you mean 'gradcam'?); known: gradcam, gradcam++, layercam, hirescam, eigencam, "
        "rollout, integrated_gradients, occlusion"
    )


def test_methods__the_command_line_offers_them_all():
    assert tuple(METHODS) == OFFERED
