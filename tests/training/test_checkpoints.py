"""Which checkpoint a run continues from, and which ones stay."""

import pytest

from hf_transfer.training.checkpoints import is_complete, last_complete, mark_complete, rotate


@pytest.fixture
def make(tmp_path):
    """Make checkpoints with weights and a state; `make(5, 10, marked=False)`."""

    def checkpoints(*steps, marked=True):
        for step in steps:
            folder = tmp_path / f"checkpoint-{step}"
            (folder / "more").mkdir(parents=True)
            (folder / "model.safetensors").write_text("weights")
            (folder / "more" / "rng_state.pth").write_text("random")
            if marked:
                mark_complete(folder)
        return tmp_path

    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_last_complete__is_the_newest_by_its_step(make):
    folder = make(9, 10, 100)
    assert last_complete(folder) == folder / "checkpoint-100"


def test_last_complete__passes_over_what_is_not_complete_and_says_so(make, capsys):
    folder = make(9, 10)
    make(11, 12, marked=False)
    assert last_complete(folder) == folder / "checkpoint-10"
    told = [
        f"warning: {folder / f'checkpoint-{step}'} is incomplete, as a run killed while saving leaves it; " for step in (12, 11)
    ]
    assert capsys.readouterr().err.splitlines() == [line + "it is passed over" for line in told]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"files": []}', '{"files": {"model.safetensors": 9999}}'])
def test_is_complete__not_with_such_a_mark(make, content):
    checkpoint = make(3) / "checkpoint-3"
    (checkpoint / "complete.json").write_text(content)
    assert not is_complete(checkpoint)


@pytest.mark.parametrize("name", ["model.safetensors", "more/rng_state.pth"])
def test_is_complete__not_where_a_file_is_gone_or_cut_off(make, name):
    checkpoint = make(3) / "checkpoint-3"
    assert is_complete(checkpoint)
    (checkpoint / name).write_text("w")
    assert not is_complete(checkpoint)
    (checkpoint / name).unlink()
    assert not is_complete(checkpoint)


def test_last_complete__none_where_nothing_is(tmp_path, make):
    assert last_complete(tmp_path / "nowhere") is None
    (tmp_path / "phase0").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete(tmp_path) is None


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, (1, 2, 3, 4)),
        (2, None, (3, 4)),
        (1, None, (4,)),
        (1, 2, (2, 4)),
        (2, 2, (2, 4)),
        (3, 1, (1, 3, 4)),
        (9, None, (1, 2, 3, 4)),
    ],
)
def test_rotate__keeps_the_newest_and_the_best(make, limit, best, left):
    folder = make(1, 2, 3, 4)
    (folder / "phase0").mkdir()
    rotate(folder, limit, folder / f"checkpoint-{best}" if best else None)
    assert names(folder) == [*(f"checkpoint-{step}" for step in left), "phase0"]


def test_rotate__what_is_incomplete_does_not_take_the_place_of_a_good_one(make):
    folder = make(1, 3)
    make(2, marked=False)
    rotate(folder, 2, None)
    assert names(folder) == ["checkpoint-1", "checkpoint-3"]
