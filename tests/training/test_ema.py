import copy
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_transfer.training.ema import WeightAverage
from hf_transfer.training.freezing import freeze_except


def resnet(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=3)


class Trained:
    """A small network that is really trained: batch norm in train mode, AdamW."""

    def __init__(self, model=None):
        self.model = resnet() if model is None else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.generator = torch.Generator().manual_seed(1)

    def step(self):
        self.model.train()
        pixels = torch.rand(4, 3, 32, 32, generator=self.generator)
        nn.functional.cross_entropy(self.model(pixels), torch.tensor([0, 1, 2, 0])).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Naive:
    """Everything averaged in float64, one number of the formula after the other."""

    def __init__(self, model, decay):
        self.decay = decay
        self.averages = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def update(self, model, step):
        share = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            whole = not tensor.is_floating_point()
            self.averages[name] = tensor.double() if whole else share * self.averages[name] + (1 - share) * tensor.double()


def copied(model):
    return copy.deepcopy(model.state_dict())


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def assert_close(average, naive):
    assert set(average.averages) == set(naive.averages)
    for name, tensor in average.averages.items():
        assert torch.allclose(tensor.double(), naive.averages[name], rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("decay", [0.5, 0.9998])  # the warm-up ends at step 8; it does not end
def test_update__is_the_formula_for_weights_and_batch_norm_statistics(decay):
    trained = Trained()
    average, naive = WeightAverage(trained.model, decay), Naive(trained.model, decay)
    before = copied(trained.model)
    for step in range(1, 16):
        trained.step()
        average.update(step)
        naive.update(trained.model, step)
    assert_close(average, naive)
    statistics = [name for name in average.averages if name.endswith(("running_mean", "running_var"))]
    assert len(statistics) > 10
    for name in [*statistics, "fc.weight"]:
        assert not torch.equal(average.averages[name], before[name])
        assert not torch.equal(average.averages[name], trained.model.state_dict()[name])


def test_update__first_steps_follow_the_weights_closely():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, 0.9998)
    nn.init.constant_(model.weight, 1.0)
    average.update(1)
    assert average.averages["weight"].item() == pytest.approx(1 - 2 / 11)
    average.update(2)
    assert average.averages["weight"].item() == pytest.approx(1 - 2 / 11 * 3 / 12)
    nn.init.constant_(model.weight, 2.0)
    average.update(10**9)
    assert average.averages["weight"].item() == pytest.approx(0.9998 * (1 - 2 / 11 * 3 / 12) + 0.0002 * 2.0)


def test_update__buffers_of_whole_numbers_are_copied():
    trained = Trained()
    average = WeightAverage(trained.model, 0.99)
    for step in range(1, 4):
        trained.step()
        average.update(step)
    counters = {name: tensor for name, tensor in average.averages.items() if name.endswith("num_batches_tracked")}
    assert len(counters) > 5
    assert all(tensor.dtype == torch.int64 and tensor.item() == 3 for tensor in counters.values())


def test_update__buffers_that_are_not_saved_are_left_alone():
    model = nn.Linear(2, 2)
    model.register_buffer("cached", torch.zeros(2), persistent=False)
    model.register_buffer("kept", torch.zeros(2))
    average = WeightAverage(model, 0.5)
    assert list(average.averages) == ["weight", "bias", "kept"]
    model.cached = torch.ones(5)  # another image size
    average.update(100)
    with average.applied():
        assert torch.equal(model.cached, torch.ones(5))


def test_update__finds_buffers_that_were_put_in_place_of_others():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5)
    model.running_mean = torch.ones(2)
    average.update(100)
    assert torch.equal(average.averages["running_mean"], torch.full((2,), 0.5))
    with average.applied():
        assert torch.equal(model.running_mean, torch.full((2,), 0.5))
    assert torch.equal(model.running_mean, torch.ones(2))


def test_update__is_the_same_each_time():
    results = []
    for _ in range(2):
        trained = Trained()
        average = WeightAverage(trained.model, 0.9)
        for step in range(1, 6):
            trained.step()
            average.update(step)
        results.append(average.averages)
    assert_equal(*results)


def test_update__does_not_change_the_training():
    alone, watched = Trained(), Trained()
    average = WeightAverage(watched.model, 0.9)
    for step in range(1, 6):
        alone.step()
        watched.step()
        average.update(step)
        with average.applied():
            pass
    assert_equal(watched.model.state_dict(), alone.model.state_dict())
    assert not any(tensor.requires_grad for tensor in average.averages.values())


def test_update__frozen_thawed_and_frozen_again_is_as_if_all_were_averaged():
    trained = Trained()
    model = trained.model
    names = [name for name, _ in model.named_parameters()]
    head = [name for name in names if name.startswith("fc.")]
    initial = copied(model)
    freeze_except(model, head)
    average, naive = WeightAverage(model, 0.8), Naive(model, 0.8)
    for step in range(1, 21):
        if step == 6:
            freeze_except(model, names)
        elif step == 13:
            freeze_except(model, head)
        trained.step()
        average.update(step)
        naive.update(model, step)
        if step == 5:  # frozen so far, statistics included: bit for bit what it was
            assert all(torch.equal(average.averages[name], tensor) for name, tensor in initial.items() if name not in head)
            assert not torch.equal(average.averages[head[0]], initial[head[0]])
    assert_close(average, naive)
    assert not torch.equal(average.averages[names[0]], initial[names[0]])
    # Frozen for 8 updates: the average has gone on towards the weights, and is not there yet.
    assert not torch.equal(average.averages[names[0]], model.state_dict()[names[0]])


def test_update__skips_what_never_trained():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1.0)  # a frozen weight does not change; this one does, to see the skipping
    before = average.averages["0.weight"].clone()
    average.update(100)
    assert torch.equal(average.averages["0.weight"], before)


def test_update__a_model_without_anything_to_average_is_left_alone():
    model = nn.Linear(2, 2).requires_grad_(False)
    average = WeightAverage(model, 0.5)
    average.update(1)
    assert_equal(average.averages, model.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_update__half_precision_weights_are_averaged_in_float32(dtype):
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.constant_(model.weight, 1.0)
    average = WeightAverage(model, 0.9998)
    nn.init.constant_(model.weight, 1.5)
    for _ in range(100):
        average.update(10**6)
    assert average.averages["weight"].dtype == torch.float32
    assert average.averages["weight"].item() == pytest.approx(1.5 - 0.5 * 0.9998**100, abs=1e-5)
    with average.applied():
        assert model.weight.dtype == dtype
        assert torch.equal(model.weight, average.averages["weight"].to(dtype))
    assert torch.equal(model.weight, torch.full((1, 1), 1.5, dtype=dtype))


def test_update__frozen_weights_of_any_precision_survive_the_swap_bit_for_bit():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = nn.Linear(7, 5).to(dtype).requires_grad_(False)
        expected = copied(model)
        average = WeightAverage(model, 0.9)
        average.update(1)
        with average.applied():
            assert_equal(model.state_dict(), expected)


def test_weight_average__tied_parameters_are_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    nn.init.constant_(model[0].weight, 0.0)
    average = WeightAverage(model, 0.5)
    assert list(average.averages) == ["0.weight"]
    nn.init.constant_(model[0].weight, 1.0)
    average.update(100)
    assert torch.equal(average.averages["0.weight"], torch.full((2, 2), 0.5))
    with average.applied():
        assert model[1].weight is model[0].weight
        assert torch.equal(model[1].weight, torch.full((2, 2), 0.5))


def updated(model=None, steps=5):
    trained = Trained(model)
    average = WeightAverage(trained.model, 0.9)
    for step in range(1, steps + 1):
        trained.step()
        average.update(step)
    return trained, average


def test_applied__gives_the_averages_and_then_the_own_weights_back_bit_for_bit():
    trained, average = updated()
    model = trained.model
    own, averages = copied(model), copy.deepcopy(average.averages)
    with average.applied():
        assert set(model.state_dict()) == set(averages)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, averages[name]), name
        assert not torch.equal(model.fc.weight, own["fc.weight"])
        model.train()(torch.rand(4, 3, 32, 32))  # moves the batch-norm statistics
        with torch.no_grad():
            model.fc.weight.zero_()
    assert_equal(model.state_dict(), own)
    assert_equal(average.averages, averages)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_applied__gives_the_own_weights_back_on_an_exception(error):
    trained, average = updated()
    own = copied(trained.model)
    with pytest.raises(error, match="stop"), average.applied():
        assert not torch.equal(trained.model.fc.weight, own["fc.weight"])
        raise error("stop")
    assert_equal(trained.model.state_dict(), own)


def test_applied__keeps_parameters_their_memory_layout_and_the_models_forward():
    model = resnet().to(memory_format=torch.channels_last)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)  # as accelerate does
    wrapper = model.forward
    trained = Trained(model)
    average = WeightAverage(model, 0.9)
    trained.step()
    average.update(1)

    def state():
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return [(name, id(tensor), tensor.data_ptr(), tensor.stride(), tensor.requires_grad) for name, tensor in tensors]

    before = state()
    with average.applied():
        assert state() == before
        assert model.forward is wrapper
        assert model.eval()(torch.rand(1, 3, 32, 32)).dtype == torch.bfloat16
        assert torch.is_grad_enabled()
    assert state() == before
    assert any(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in model.parameters())
    trained.step()  # the optimizer still knows its parameters
    assert not torch.equal(model.fc.weight, average.averages["fc.weight"])


def test_applied__is_seen_by_autocast_that_surrounds_it():
    model = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.5)
    nn.init.ones_(model.weight)
    average.update(100)
    pixels = torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(pixels)[0, 0].item() == 4.0  # casts the weights, and keeps the cast
        with average.applied():
            assert model(pixels)[0, 0].item() == 2.0
        assert model(pixels)[0, 0].item() == 4.0


def test_applied__inside_inference_mode_leaves_a_model_that_trains():
    trained, average = updated()
    own = copied(trained.model)
    with torch.inference_mode(), average.applied():
        trained.model.eval()(torch.rand(1, 3, 32, 32))
    assert_equal(trained.model.state_dict(), own)
    trained.step()
    average.update(6)


def test_copy_to_model__gives_the_averages_for_good():
    trained, average = updated()
    model, averages = trained.model, copy.deepcopy(average.averages)
    parameters = list(model.parameters())
    average.copy_to_model()
    assert set(model.state_dict()) == set(averages)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, averages[name]), name
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    trained.step()  # the averages are not the model's own tensors
    assert_equal(average.averages, averages)


def test_save__and_load_are_a_round_trip_bit_for_bit(tmp_path):
    trained, average = updated(resnet().to(memory_format=torch.channels_last))
    average.save(tmp_path / "average.safetensors")
    other = resnet(seed=5).to(memory_format=torch.channels_last)
    other.load_state_dict(trained.model.state_dict())
    restored = WeightAverage(other, 0.9)
    assert not torch.equal(restored.averages["fc.weight"], average.averages["fc.weight"])
    restored.load(tmp_path / "average.safetensors")
    assert_equal(restored.averages, average.averages)
    restored.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "average.safetensors").read_bytes()
    assert set(load_file(tmp_path / "average.safetensors")) == set(trained.model.state_dict())


def test_load__resumed_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    def train(steps, trained, average):
        for step in steps:
            if step == 4:  # what trained before the stop is frozen when it is resumed, and goes on being averaged
                freeze_except(trained.model, ["fc.weight", "fc.bias"])
            trained.step()
            average.update(step)

    whole = Trained()
    average = WeightAverage(whole.model, 0.9)
    train(range(1, 6), whole, average)
    average.save(tmp_path / "average.safetensors")
    weights, moments = copied(whole.model), copy.deepcopy(whole.optimizer.state_dict())
    generator = whole.generator.get_state()
    train(range(6, 10), whole, average)

    resumed = Trained(resnet(seed=5))
    freeze_except(resumed.model, ["fc.weight", "fc.bias"])
    again = WeightAverage(resumed.model, 0.9)
    resumed.model.load_state_dict(weights)
    resumed.optimizer.load_state_dict(moments)
    resumed.generator.set_state(generator)
    again.load(tmp_path / "average.safetensors")
    train(range(6, 10), resumed, again)
    assert_equal(resumed.model.state_dict(), whole.model.state_dict())
    assert_equal(again.averages, average.averages)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda saved: saved.pop("bias"), "missing bias"),
        (lambda saved: saved.update(other=torch.zeros(1)), "left over other"),
        (lambda saved: saved.update(weight=torch.zeros(3, 3)), "weight is float32 [3, 3] instead of float32 [3, 2]"),
        (lambda saved: saved.update(bias=torch.zeros(3).double()), "bias is float64 [3] instead of float32 [3]"),
        (
            lambda saved: saved.update(scale=saved.pop("bias"), weight=torch.zeros(6)),
            "missing bias; left over scale; weight is float32 [6] instead of float32 [3, 2]",
        ),
    ],
    ids=["missing", "left over", "shape", "dtype", "all"],
)
def test_load__refuses_what_does_not_fit_and_changes_nothing(tmp_path, change, message):
    average = WeightAverage(nn.Linear(2, 3), 0.9)
    before = copy.deepcopy(average.averages)
    saved = {name: tensor + 1 for name, tensor in before.items()}
    change(saved)
    path = tmp_path / "average.safetensors"
    save_file(saved, path)
    with pytest.raises(RuntimeError, match=f"^{re.escape(f'the weight average {path} does not fit its model: {message}')}$"):
        average.load(path)
    assert_equal(average.averages, before)


def test_load__says_which_file_cannot_be_read(tmp_path):
    average = WeightAverage(nn.Linear(2, 3), 0.9)
    path = tmp_path / "average.safetensors"
    with pytest.raises(RuntimeError, match=f"^the weight average {re.escape(str(path))} cannot be read: "):
        average.load(path)
    average.save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RuntimeError, match=f"^the weight average {re.escape(str(path))} cannot be read: "):
        average.load(path)
