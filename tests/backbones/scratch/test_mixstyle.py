import math

import torch

from hf_transfer.backbones.scratch.mixstyle import MixStyle, mix_style


def maps_of(count=6):
    return torch.randn(count, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1


def reference(maps, partner, share, eps):
    """The paper's equations, image by image and channel by channel."""
    out = torch.empty_like(maps)

    def statistics(image, channel):
        values = maps[image, channel].flatten().tolist()
        mean = sum(values) / len(values)
        return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + eps)

    for image in range(len(maps)):
        own = float(share[image])
        for channel in range(maps.shape[1]):
            mean, deviation = statistics(image, channel)
            other_mean, other_deviation = statistics(int(partner[image]), channel)
            gamma = own * deviation + (1 - own) * other_deviation
            beta = own * mean + (1 - own) * other_mean
            out[image, channel] = gamma * (maps[image, channel] - mean) / deviation + beta
    return out


def test_mix_style__equals_the_equations():
    maps, partner = maps_of(), torch.tensor([3, 1, 0, 5, 2, 4])
    share = torch.tensor([0.0, 0.3, 1.0, 0.5, 0.9, 0.1]).view(6, 1, 1, 1)
    mixed = mix_style(maps, partner, share, 1e-6)
    assert torch.allclose(mixed, reference(maps, partner, share, 1e-6), atol=1e-5)
    assert torch.allclose(mixed[2], maps[2], atol=1e-5)  # all its own
    assert torch.allclose(mixed[0].mean((1, 2)), maps[3].mean((1, 2)), atol=1e-5)  # all its partner's
    assert torch.allclose(mixed[0].std((1, 2)), maps[3].std((1, 2)), atol=1e-4)


def test_mix_style__no_gradient_through_the_statistics():
    maps, partner = maps_of().requires_grad_(), torch.tensor([1, 2, 3, 4, 5, 0])
    share = torch.full((6, 1, 1, 1), 0.25)
    mix_style(maps, partner, share).sum().backward()
    deviation = maps.detach().var((2, 3), correction=0, keepdim=True).add(1e-6).sqrt()
    gamma = 0.25 * deviation + 0.75 * deviation[partner]
    assert torch.allclose(maps.grad, (gamma / deviation).expand_as(maps), atol=1e-5)


def test_mix_style__keeps_half_precision():
    maps = maps_of().bfloat16()
    partner, share = torch.tensor([3, 1, 0, 5, 2, 4]), torch.full((6, 1, 1, 1), 0.4)
    mixed = mix_style(maps, partner, share)
    assert mixed.dtype == torch.bfloat16
    assert torch.allclose(mixed.float(), reference(maps.float(), partner, share, 1e-6), atol=0.1)


def test_mixstyle__eval_changes_nothing_and_draws_nothing():
    maps, module = maps_of(), MixStyle().eval()
    state = torch.random.get_rng_state()
    assert module(maps) is maps
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mixstyle__mixes_every_second_batch():
    torch.manual_seed(0)
    maps, module = maps_of(2), MixStyle()
    unchanged = sum(module(maps) is maps for _ in range(1000))
    assert 450 < unchanged < 550
    assert MixStyle(p=0.0)(maps) is maps


def test_mixstyle__shares_follow_the_beta_distribution():
    torch.manual_seed(0)
    # Two images of a constant each: the mixed mean tells the share.
    maps = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]).repeat(1000, 1, 1, 1)
    mixed = MixStyle(p=1.0)(maps)
    assert mixed.isfinite().all()
    assert abs(float(mixed.mean()) - 0.5) < 0.05
    # Of two images in different styles the mixed value is the share or 1 - share; Beta(0.1, 0.1) lies at the ends.
    values = mixed[:, 0, 0, 0]
    ends = ((values < 0.01) | (values > 0.99)).float().mean()
    expected = 0.5 + 0.5 * float(_ends_of_beta())
    assert abs(float(ends) - expected) < 0.05


def _ends_of_beta():
    from scipy.stats import beta

    return 2 * beta(0.1, 0.1).cdf(0.01)
