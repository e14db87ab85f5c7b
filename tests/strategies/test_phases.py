import pytest

from hf_transfer.backbones.layer_groups import LayerGroup
from hf_transfer.recipe.schema import Strategy
from hf_transfer.strategies.phases import Phase, build_phases, phase_at

GROUPS = [LayerGroup(name, (f"{name}.weight",)) for name in ("stem", "layer1", "layer2", "head")]


def test_build_phases__full_trains_everything():
    assert build_phases(Strategy(name="full"), GROUPS) == [Phase("full", ("stem", "layer1", "layer2", "head"), None)]


def test_build_phases__linear_probe_trains_the_head():
    assert build_phases(Strategy(name="linear_probe"), GROUPS) == [Phase("linear_probe", ("head",), None)]


def test_build_phases__a_strategy_without_phases():
    with pytest.raises(ValueError, match="strategy 'knn' has no phases"):
        build_phases(Strategy(name="knn"), GROUPS)


THREE = (Phase("a", ("head",), 2), Phase("b", ("layer2", "head"), 0.5), Phase("c", ("layer1", "layer2", "head")))


@pytest.mark.parametrize(
    ("epoch", "name"),
    [(0.0, "a"), (1.0, "a"), (1.999, "a"), (2.0, "b"), (2.25, "b"), (2.5, "c"), (3.0, "c"), (1e6, "c")],
)
def test_phase_at__is_a_function_of_the_epoch_alone(epoch, name):
    assert phase_at(THREE, epoch).name == name
    phase_at(THREE, 99.0)
    phase_at(THREE, 0.0)
    assert phase_at(THREE, epoch).name == name
    assert phase_at(list(THREE), epoch) is phase_at(THREE, epoch)


def test_phase_at__past_the_end_the_last_phase_goes_on():
    assert phase_at(THREE[:2], 2.5).name == "b"
    assert phase_at(THREE[:1], 7.0).name == "a"
