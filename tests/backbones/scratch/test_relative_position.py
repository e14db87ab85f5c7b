import torch

from hf_transfer.backbones.scratch.relative_position import RelativePosition
from hf_transfer.backbones.scratch.sinusoid import sinusoid

ROWS, COLUMNS, HEADS, WIDTH = 2, 3, 2, 16


def position_of():
    torch.manual_seed(0)
    position = RelativePosition(ROWS, COLUMNS, HEADS, WIDTH)
    for parameter in position.parameters():
        torch.nn.init.normal_(parameter)
    return position


def code(query, key):
    """r of the distance from a key's cell to a query's."""
    down, right = query // COLUMNS - key // COLUMNS, query % COLUMNS - key % COLUMNS
    return torch.cat([sinusoid(torch.tensor([float(distance)]), WIDTH // 2)[0] for distance in (down, right)])


def test_relative_position__equals_a_double_loop():
    position = position_of()
    length, size = 1 + ROWS * COLUMNS, WIDTH // HEADS
    query = torch.randn(2, HEADS, length, size)
    expected = torch.zeros(2, HEADS, length, length)
    for image in range(2):
        for head in range(HEADS):
            for i in range(1, length):
                for j in range(1, length):
                    projected = position.projection.weight @ code(i - 1, j - 1)
                    own = projected[head * size : (head + 1) * size]
                    expected[image, head, i, j] = (query[image, head, i] + position.position_bias[head, 0]) @ own
    assert torch.allclose(position(query), expected, atol=1e-5)
    assert not position(query)[:, :, 0].any()
    assert not position(query)[:, :, :, 0].any()


def test_relative_position__tells_directions_apart():
    position = position_of()
    scores = position(torch.zeros(1, HEADS, 1 + ROWS * COLUMNS, WIDTH // HEADS))[0, 0]
    assert torch.allclose(scores[1, 2], scores[4, 5])  # one to the right, in either row
    assert not torch.allclose(scores[1, 2], scores[2, 1])  # and one to the left
    assert not torch.allclose(scores[1, 2], scores[1, 4])  # and one down


def test_relative_position__parameters():
    position = RelativePosition(4, 4, 4, 256)
    assert sum(parameter.numel() for parameter in position.parameters()) == 256**2 + 2 * 256 == 66_048
