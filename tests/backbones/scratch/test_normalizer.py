import pytest
import torch

from hf_transfer.backbones.scratch.normalizer import InputNormalizer, build_normalizer


def batches():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    return [torch.rand(4, 3, 5, 6, generator=generator) * scale for _ in range(3)]


@pytest.mark.parametrize("kind", ["scalar", "channel"])
def test_input_normalizer__moves_by_a_hundredth_of_what_a_batch_tells(kind):
    normalizer = InputNormalizer(kind)
    channels = [slice(0, 3)] if kind == "scalar" else [slice(0, 1), slice(1, 2), slice(2, 3)]
    mean, variance = [0.0] * len(channels), [1.0] * len(channels)
    for batch in batches():
        out = normalizer(batch)
        for number, channel in enumerate(channels):
            pixels = batch[:, channel].flatten().tolist()
            average = sum(pixels) / len(pixels)
            mean[number] = 0.99 * mean[number] + 0.01 * average
            variance[number] = 0.99 * variance[number] + 0.01 * sum((p - average) ** 2 for p in pixels) / len(pixels)
            expected = (batch[:, channel] - mean[number]) / (variance[number] + 1e-5) ** 0.5
            assert torch.allclose(out[:, channel], expected, atol=1e-5)
    assert normalizer.running_mean.flatten().tolist() == pytest.approx(mean, rel=1e-5)
    assert normalizer.running_var.flatten().tolist() == pytest.approx(variance, rel=1e-5)
    assert not list(normalizer.parameters())


def test_input_normalizer__arrives_at_the_statistics_of_the_data():
    normalizer = InputNormalizer("channel")
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        normalizer(torch.randn(8, 3, 4, 4, generator=generator) * 0.25 + 0.5)
    assert torch.allclose(normalizer.running_mean, torch.full((1, 3, 1, 1), 0.5), atol=0.02)
    assert torch.allclose(normalizer.running_var, torch.full((1, 3, 1, 1), 0.0625), atol=0.005)


def test_input_normalizer__eval_changes_nothing():
    normalizer = InputNormalizer()
    for batch in batches():
        normalizer(batch)
    before = {name: tensor.clone() for name, tensor in normalizer.state_dict().items()}
    expected = normalizer.eval()(batches()[0])
    normalizer(torch.rand(4, 3, 5, 6) * 100)
    assert torch.equal(normalizer(batches()[0]), expected)
    assert sorted(before) == ["running_mean", "running_var"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in normalizer.state_dict().items())


def test_input_normalizer__half_precision_pixels_have_float32_statistics():
    normalizer = InputNormalizer()
    normalizer(torch.full((64, 3, 32, 32), 0.7, dtype=torch.bfloat16))
    assert normalizer.running_mean.dtype == torch.float32
    assert normalizer.running_mean.item() == pytest.approx(0.01 * 0.69921875, rel=1e-5)


def test_build_normalizer__none_leaves_pixels_as_they_are():
    pixels = torch.rand(2, 3, 4, 4)
    assert build_normalizer("none")(pixels) is pixels
    assert build_normalizer("channel").running_mean.shape == (1, 3, 1, 1)
