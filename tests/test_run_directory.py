"""Who may write into a run directory, and when."""

import json
import os

import pytest

from hf_transfer.errors import RunDirectoryError
from hf_transfer.recipe import dump_recipe, parse_recipe
from hf_transfer.run_directory import RunDirectory, replacing, write_json


def resolved(*overrides):
    raw = {"output_dir": "runs/x", "data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}
    return dump_recipe(parse_recipe(raw, overrides))


def snapshot(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def fill(root):
    """Write what a run leaves behind, but for the recipe and the two marks of a finished run."""
    for name in ("predictions", "model", "plots", "tensorboard", "checkpoints/checkpoint-3"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text("old")
    for name in ("environment.json", "history.csv"):
        (root / name).write_text("old")


@pytest.fixture
def unfinished(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.begin(resolved(), overwrite=False)
    fill(directory.root)
    return directory


@pytest.fixture
def finished(unfinished):
    write_json(unfinished.metrics, {"test": {"accuracy": 0.5}})
    unfinished.card.write_text("card")
    return unfinished


def refusal(directory, recipe=None, *, resume=False, overwrite=False):
    """Return the message of a refusal, having seen that nothing changed."""
    before = snapshot(directory.root) if directory.root.is_dir() else None
    with pytest.raises(RunDirectoryError) as caught:
        directory.check(recipe or resolved(), resume=resume, overwrite=overwrite)
    assert (snapshot(directory.root) if directory.root.is_dir() else None) == before
    return str(caught.value)


# A free directory


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_check__absent_and_empty_directories_are_free(tmp_path, options):
    options = {"resume": False, "overwrite": False} | options
    absent = RunDirectory(tmp_path / "deep" / "run")
    absent.check(resolved(), **options)
    assert not (tmp_path / "deep").exists()
    RunDirectory(tmp_path).check(resolved(), **options)
    assert not list(tmp_path.iterdir())


def test_begin__writes_the_resolved_recipe_and_nothing_else(tmp_path):
    directory = RunDirectory(tmp_path / "deep" / "run")
    directory.begin(resolved("seed=3"), overwrite=False)
    assert json.loads(directory.recipe.read_text(encoding="utf-8")) == resolved("seed=3")
    assert [path.name for path in directory.root.iterdir()] == ["recipe.json"]
    assert not directory.is_finished


# Somebody else's directory


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize(
    "recipe",
    [
        None,
        "{}",
        '["recipe"]',
        "no json",
        # What a user wrote, and keeps beside other files; only a run writes every key.
        '{"output_dir": ".", "data": {"source": "x"}, "model": {"backbone": "y"}, "training": {}, "strategy": "full"}',
    ],
    ids=["no recipe", "empty", "list", "text", "handwritten"],
)
def test_check__a_foreign_directory_is_never_touched(tmp_path, options, recipe):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("mine")
    if recipe is not None:
        (tmp_path / "recipe.json").write_text(recipe)
    names = "README.md, model" + (", recipe.json" if recipe is not None else "")
    assert refusal(RunDirectory(tmp_path), **options) == (
        f"output_dir: {tmp_path} is not empty and holds no run of this package ({names}); nothing was touched. "
        "Choose another output_dir."
    )


def test_begin__overwrite_leaves_a_foreign_directory_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "recipe.json").write_text('{"mine": true}')
    before = snapshot(tmp_path)
    RunDirectory(tmp_path).begin(resolved(), overwrite=True)
    assert snapshot(tmp_path) == before


# An old run


def test_check__a_finished_run_is_kept(finished):
    assert finished.is_finished
    assert refusal(finished) == (
        f"output_dir: {finished.root} holds a finished run; nothing was touched. Choose another output_dir, or start anew "
        "with --overwrite."
    )


def test_check__resuming_a_finished_run_passes_with_the_same_recipe_only(finished):
    recipe = json.loads(finished.recipe.read_text(encoding="utf-8"))
    finished.check(recipe, resume=True, overwrite=False)
    assert "was begun with another recipe" in refusal(finished, {**recipe, "seed": recipe["seed"] + 1}, resume=True)


def test_check__what_belongs_to_the_machine_may_change_on_resume(unfinished):
    recipe = json.loads(unfinished.recipe.read_text(encoding="utf-8"))
    unfinished.recipe.write_text(json.dumps({**recipe, "training": {"bf16": True, "dataloader_num_workers": 1}}))
    unfinished.check({**recipe, "training": {"bf16": True, "dataloader_num_workers": 7}}, resume=True, overwrite=False)
    refused = {**recipe, "training": {"bf16": False, "dataloader_num_workers": 1}}
    assert "training.bf16: was true, is false" in refusal(unfinished, refused, resume=True)


def test_check__an_unfinished_run_is_kept(unfinished):
    assert refusal(unfinished) == (
        f"output_dir: {unfinished.root} holds an unfinished run; nothing was touched. Continue it with --resume, start anew "
        "with --overwrite, or choose another output_dir."
    )


@pytest.mark.parametrize("missing", ["metrics.json", "README.md"])
def test_is_finished__needs_metrics_and_card(finished, missing):
    (finished.root / missing).unlink()
    assert not finished.is_finished
    assert "holds an unfinished run" in refusal(finished)


def test_check__overwrite_and_resume_are_granted(unfinished):
    before = snapshot(unfinished.root)
    unfinished.check(resolved("seed=9"), resume=False, overwrite=True)
    unfinished.check(resolved(), resume=True, overwrite=False)
    assert snapshot(unfinished.root) == before


def test_begin__overwrite_removes_the_old_run_and_only_that(finished):
    (finished.root / "notes.txt").write_text("mine")
    finished.begin(resolved("seed=9"), overwrite=True)
    assert {path.name for path in finished.root.iterdir()} == {"recipe.json", "notes.txt"}
    assert json.loads(finished.recipe.read_text(encoding="utf-8"))["seed"] == 9
    assert (finished.root / "notes.txt").read_text() == "mine"


def test_begin__overwrite_does_not_follow_links(finished, tmp_path):
    elsewhere = tmp_path / "big disk"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("mine")
    (finished.plots / "file").unlink()
    finished.plots.rmdir()
    finished.plots.symlink_to(elsewhere, target_is_directory=True)
    finished.begin(resolved(), overwrite=True)
    assert not finished.plots.is_symlink()
    assert (elsewhere / "kept").read_text() == "mine"


def test_begin__resume_keeps_everything(unfinished):
    before = snapshot(unfinished.root)
    unfinished.begin(resolved("description=new words"), overwrite=False)
    assert snapshot(unfinished.root) == before


# Resuming


def test_check__a_changed_recipe_is_refused_with_the_difference(unfinished):
    changed = resolved("seed=1", "training.learning_rate=0.1", "data.test_fraction=0.2", "model.head.hidden=[]")
    assert refusal(unfinished, changed, resume=True) == (
        f"output_dir: {unfinished.root} was begun with another recipe, so it cannot be resumed:\n"
        "  - data.test_fraction: was null, is 0.2\n"
        "  - seed: was 0, is 1\n"
        "  - training: was {}, is null\n"
        "  - training.learning_rate: was null, is 0.1\n"
        "Restore those values, or start anew with --overwrite or another output_dir."
    )


@pytest.mark.parametrize(
    "override",
    [
        "description=other words",
        "output_dir=moved",
        "$schema=other.json",
        'reference={"source": "a paper", "test_accuracy": 0.9}',
        'expected={"test_accuracy": 0.9, "minutes": 1, "device": "cpu", "date": "2026-01-31"}',
    ],
)
def test_check__remarks_may_change_on_resume(unfinished, override):
    unfinished.check(resolved(override), resume=True, overwrite=False)


# Something in the way


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_check__a_file_in_the_way(tmp_path, below, options):
    file = tmp_path / "file"
    file.write_text("mine")
    assert refusal(RunDirectory(file / below), **options) == f"output_dir: {file} is a file; expected a directory or nothing"
    assert file.read_text() == "mine"


def test_begin__a_file_in_the_way(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(RunDirectoryError, match=f"^output_dir: cannot write to {file / 'run'}: Not a directory$"):
        RunDirectory(file / "run").begin(resolved(), overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check__a_directory_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        expected = f"output_dir: cannot write to {tmp_path}: Permission denied"
        assert refusal(RunDirectory(tmp_path / "run")) == expected
    finally:
        tmp_path.chmod(0o700)


# Checkpoints and metrics


def test_read_metrics__reads_what_was_written(finished):
    assert finished.read_metrics() == {"test": {"accuracy": 0.5}}


# Writing


def test_write_json__is_readable_text(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Übung", "list": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n  "name": "Übung",\n  "list": [\n    1,\n    2.5,\n    null\n  ]\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_write_json__keeps_the_old_file_when_the_data_cannot_be_written(tmp_path, value):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"new": value})
    assert snapshot(tmp_path) == {"a.json": b'{\n  "old": 1\n}\n'}


def write_file(path):
    path.write_text("new")


def write_folder(path):
    path.mkdir()
    (path / "new").write_text("new")


def test_replacing__a_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with replacing(tmp_path / "a") as temporary:
        write_file(temporary)
        assert (tmp_path / "a").read_text() == "old"
    assert snapshot(tmp_path) == {"a": b"new"}


def test_replacing__a_folder_as_a_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    with replacing(tmp_path / "a") as temporary:
        write_folder(temporary)
    assert snapshot(tmp_path) == {"a": None, "a/new": b"new"}


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("old", [write_file, write_folder, None])
def test_replacing__an_error_leaves_the_old_content_and_no_temporary(tmp_path, write, old):
    if old:
        old(tmp_path / "a")
    before = snapshot(tmp_path)
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        write(temporary)
        1 / 0  # noqa: B018
    assert snapshot(tmp_path) == before


def test_replacing__does_not_take_up_what_a_killed_process_left(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        name = temporary.name
        write_folder(temporary)
    (tmp_path / name).mkdir()  # as of a process of the same number, killed while it wrote
    (tmp_path / name / "stale").write_text("stale")
    with replacing(tmp_path / "a") as temporary:
        assert not temporary.exists()
        write_folder(temporary)
    assert snapshot(tmp_path) == {"a": None, "a/new": b"new"}


def test_held__by_one_at_a_time_and_free_again_afterwards(tmp_path):
    first, second = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    with first.held():
        first.begin(resolved(), overwrite=False)
        before = snapshot(first.root)
        with pytest.raises(RunDirectoryError) as caught, second.held():
            raise AssertionError("not held")
        assert str(caught.value) == (
            f"output_dir: another run is writing into {second.root} at this moment; nothing was touched. Wait until it is "
            "done, or choose another output_dir."
        )
        assert snapshot(first.root) == before
    assert list(snapshot(first.root)) == ["recipe.json"]
    with second.held():
        pass


def test_held__what_a_killed_process_left_is_no_content(tmp_path):
    (tmp_path / ".lock").touch()
    RunDirectory(tmp_path).check(resolved(), resume=False, overwrite=False)
    with RunDirectory(tmp_path).held():
        pass
