import torch

from hf_transfer.backbones.scratch.dilated import DilatedNetwork


def test_dilated_network__sees_31_pixels():
    torch.manual_seed(0)
    network = DilatedNetwork(normalizer="none", num_classes=2).eval()
    pixels = torch.rand(1, 3, 41, 41, requires_grad=True)
    maps = network.features(pixels)
    assert maps.shape == (1, 32, 41, 41)
    (gradient,) = torch.autograd.grad(maps[0, :, 20, 20].sum(), pixels)
    seen = gradient[0].abs().sum(0) > 0
    assert seen.any(0).nonzero().flatten().tolist() == list(range(5, 36))
    assert seen.any(1).nonzero().flatten().tolist() == list(range(5, 36))


def test_dilated_network__pools_all_cells():
    network = DilatedNetwork(normalizer="none", num_classes=5).eval()
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.allclose(network(pixels), network.head(network.features(pixels).mean((2, 3))), atol=1e-6)
