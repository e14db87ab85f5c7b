"""Cells are carried out once, whatever happens to some of them and whenever the study is stopped."""

import contextlib
import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
import repositories
from filelock import FileLock

from hf_transfer.cli import main
from hf_transfer.errors import RunDirectoryError, UserError
from hf_transfer.studies.estimate import estimates
from hf_transfer.studies.execution import run_study
from hf_transfer.studies.interruption import interruptible, stop_if_asked
from hf_transfer.studies.study import Study, cells, load_study

SMALL = {"test_fraction": 0.2, "max_train_samples": 20, "max_validation_samples": 20, "max_test_samples": 20}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two heads of a tiny ViT, and one that cannot be: its folder holds no model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    repositories.write_vit(tmp_path / "vit")
    (tmp_path / "empty").mkdir()
    raw = {
        "output_dir": "runs/study",
        "base": {"data": {"source": "package:digits", **SMALL}, "model": {"backbone": "vit"}, "strategy": "linear_probe"},
        "axes": {"model.backbone": ["vit", "empty"], "seed": [0, 1]},
        "exclude": [{"model.backbone": "empty", "seed": 1}],
    }
    (tmp_path / "study.json").write_text(json.dumps(raw))
    return load_study("study.json")


def _times(root):
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("cells/*/metrics.json")}


def test_run_study__each_cell_once_and_failures_apart(study):
    found = cells(study)
    good, bad = [cell.id for cell in found[:2]], found[2].id
    result = run_study(study, found, only=["vit-*-?*"])
    assert (result.done, result.carried_out, result.failed, result.left) == (good, good, {}, [])
    assert [row["state"] for row in estimates(found, result.root)] == ["done", "done", "new"]
    before = _times(result.root)
    (result.root / "cells" / good[1] / "README.md").unlink()  # cut off before it was finished

    result = run_study(study, found)
    assert (result.done, result.carried_out) == (good, good[1:])
    assert result.failed == {bad: "model.backbone: expected a config.json in empty (or in its model/), found none"}
    assert _times(result.root)[good[0]] == before[good[0]]
    rows = estimates(found, result.root)
    assert [row["state"] for row in rows] == ["done", "done", "failed"]
    assert rows[0]["seconds"] > 0 and rows[2]["seconds"] is None

    assert run_study(study, found).carried_out == []  # what failed is told, and not tried again
    shutil.copytree("vit", "empty", dirs_exist_ok=True)
    assert bad in run_study(study, found).failed
    result = run_study(study, found, retry_failed=True)
    assert (result.carried_out, result.failed) == ([bad], {})
    assert not list((result.root / "failed").iterdir())


def test_run_study__what_another_process_is_at_and_leaves(study):
    found = cells(study)[:1]
    locks = Path(study.output_dir, "locks")
    locks.mkdir(parents=True)
    (locks.parent / "study.json").write_text("{}")
    lock = FileLock(locks / f"{found[0].id}.lock", thread_local=False)
    lock.acquire()
    result = run_study(study, found, patience=0.1)
    assert (result.elsewhere, result.done, result.left) == ([found[0].id], [], [])
    threading.Timer(0.5, lock.release).start()
    result = run_study(study, found)
    assert (result.elsewhere, result.carried_out) == ([], [found[0].id])


def test_run_study__a_funnel_lets_backbones_go(study):
    repositories.write_vit(Path("empty"), seed=8)
    raw = study.model_dump(by_alias=True)
    raw["axes"] = {"strategy": ["full", "linear_probe"], "model.backbone": ["vit", "empty"]}
    study = Study.model_validate({**raw, "exclude": [], "funnel": {"finetune_top": 1}})
    found = cells(study)
    result = run_study(study, found)
    ranking = json.loads((result.root / "funnel.json").read_text())["ranking"]
    best, other = (row["backbone"] for row in ranking)
    tuned = {cell.values["model.backbone"]: cell.id for cell in found[:2]}
    assert result.done == [found[2].id, found[3].id, tuned[best]]
    assert result.left == [tuned[other]] and not Path(f"runs/study/cells/{tuned[other]}").exists()


def test_interruptible__a_signal_that_got_lost_is_remembered(study):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        run_study(study, cells(study))
    assert signal.getsignal(signal.SIGTERM) is before
    assert not Path("runs/study/cells").exists()
    stop_if_asked()


def test_run_study__refuses_a_folder_of_something_else(study):
    root = Path(study.output_dir)
    root.mkdir(parents=True)
    (root / "thesis.tex").write_text("words")
    with pytest.raises(RunDirectoryError, match=r"is not empty and holds no study \(thesis\.tex\); nothing was touched"):
        run_study(study, cells(study))
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


def test_run_study__a_pattern_that_matches_nothing(study):
    with pytest.raises(UserError, match=r"--only: no cell matches resnet\*; the cells are vit-0-"):
        run_study(study, cells(study), only=["resnet*"])
    assert not Path(study.output_dir).exists()


def test_study_command__dry_run_run_and_leaderboard(study, capsys):
    from hf_transfer.cli import main

    words = ["study", "study.json"]
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("  new  ") == 3 and "3 cells, 3 to be carried out" in told
    assert not Path(study.output_dir).exists()
    assert main([*words, "--only", "vit-*", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["done"]) == 2 and answer["failed"] == {}
    (table,) = answer["leaderboard"]["tables"]
    assert table["verdict"]["standings"][0]["seeds"] == 2
    assert (Path(study.output_dir) / "leaderboard.md").is_file()
    assert main(words) == 1  # the third cell fails
    assert "failed: empty-0-" in capsys.readouterr().err


def test_study_command__where_every_cell_fails_that_is_what_is_told(study, capsys):
    bad = cells(study)[2].id
    assert main(["study", "study.json", "--only", bad]) == 1
    assert f"failed: {bad}: model.backbone: expected a config.json in empty" in capsys.readouterr().err
    assert Path(study.output_dir, "report.html").is_file()


def test_study_command__does_not_write_over_the_study_file(study, capsys):
    Path("runs/study").mkdir(parents=True)
    Path("runs/study/study.json").write_text(Path("study.json").read_text())
    before = Path("runs/study/study.json").read_bytes()
    assert main(["study", "runs/study/study.json"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: output_dir: runs/study/study.json would be written over; rename it, or choose another output_dir"
    )
    assert Path("runs/study/study.json").read_bytes() == before
