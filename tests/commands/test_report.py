import json
import shutil
from pathlib import Path

import many_runs
import numpy as np
import pytest

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.metrics import classification_metrics


@pytest.fixture
def run_dir(tmp_path):
    """The least that a finished run leaves."""
    root = tmp_path / "run"
    (root / "predictions").mkdir(parents=True)
    labels = np.array([0, 1, 0, 1])
    logits = np.array([[2, 0], [0, 1], [0, 1], [0, 3]], dtype=np.float32)
    ids = [f"digits/{row}" for row in range(4)]
    Predictions(ids, [None] * 4, labels, logits.argmax(axis=1), logits, ["a", "b"]).write(root / "predictions/test.parquet")
    recipe = {"mode": "train", "data": {"source": "package:digits"}, "model": {"backbone": "x"}}
    (root / "recipe.json").write_text(json.dumps(recipe))
    (root / "metrics.json").write_text(json.dumps({"test": classification_metrics(logits, labels, ["a", "b"])}))
    return root


def test_report(run_dir, capsys):
    assert main(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"{run_dir}/report.html\n6 pictures in {run_dir}/plots\n"
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    # The images come from the source that the recipe names.
    assert page.count("digits/") == 2 * 5
    assert "image not found" not in page


def test_report__again_and_json(run_dir, capsys):
    main(["report", str(run_dir)])
    capsys.readouterr()
    assert main(["report", str(run_dir), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == f"{run_dir}/report.html"
    assert f"{run_dir}/plots/reliability.png" in found["plots"]


def test_report__elsewhere_and_never_over_what_is_there(run_dir, tmp_path, capsys):
    output = tmp_path / "mine.html"
    assert main(["report", str(run_dir), "--output", str(output)]) == 0
    assert not (run_dir / "report.html").exists()
    output.write_text("mine")
    assert main(["report", str(run_dir), "--output", str(output)]) == 2
    assert output.read_text() == "mine"
    assert capsys.readouterr().err == (
        f"error: report: --output: {output} is there already; nothing was touched. Replace it with --overwrite.\n"
    )
    assert main(["report", str(run_dir), "--output", str(output), "--overwrite"]) == 0
    assert output.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("metrics.json", "expected the directory of a finished run, found no metrics.json in it."),
        ("recipe.json", "expected the directory of a finished run, found no recipe.json in it."),
    ],
)
def test_report__no_finished_run(run_dir, capsys, missing, message):
    (run_dir / missing).unlink()
    assert main(["report", str(run_dir)]) == 2
    assert capsys.readouterr().err == f"error: {run_dir}: {message}\n"
    assert not (run_dir / "plots").exists()


def test_report__no_directory(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    expected = (
        f"error: report: expected the directory of a finished run, or a folder of runs; found no directory {tmp_path}/none\n"
    )
    assert capsys.readouterr().err == expected
    assert main(["report", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: report: --output: expected a file, found the directory {tmp_path}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two candidates, three seeds of the one; read only."""
    root = tmp_path_factory.mktemp("study") / "runs"
    many_runs.write_runs(root, 8, 60)
    return root


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "runs"))


def test_report__folder(folder, capsys):
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    saved = json.loads((folder / "leaderboard.json").read_text())
    assert said == [
        saved["tables"][0]["verdict"]["words"],
        f"{folder}/report.html",
        f"8 pictures in {folder}/plots; {folder}/leaderboard.md, .csv and .json",
    ]
    assert not list(folder.glob("run_*/report.html"))


def test_report__folder_json_and_output(folder, tmp_path, capsys):
    page = tmp_path / "mine.html"
    assert main(["report", str(folder), "--output", str(page), "--overlay", "run_00[01]", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == str(page) and page.is_file() and not (folder / "report.html").exists()
    assert told["leaderboard"] == [f"{folder}/leaderboard.{kind}" for kind in ("json", "csv", "md")]
    assert f"{folder}/plots/overlay.svg" in told["plots"]
    assert all(Path(path).is_file() for path in told["plots"])
    assert len(told["verdicts"]) == 1
    assert main(["report", str(folder), "--output", str(page)]) == 2
    assert capsys.readouterr().err == (
        f"error: report: --output: {page} is there already; nothing was touched. Replace it with --overwrite.\n"
    )


def test_report__folder_of_unfinished_runs(folder, capsys):
    for run in folder.iterdir():
        (run / "metrics.json").unlink()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.startswith(f"No run is finished: no verdict yet.\n{folder}/report.html\n2 pictures")


def test_report__overlay_without_a_match(folder, capsys):
    assert main(["report", str(folder), "--overlay", "vit*"]) == 2
    names = ", ".join(f"run_00{place}" for place in range(8))
    assert capsys.readouterr().err == f"error: --overlay: no run matches vit*; the runs are {names}\n"
    assert not (folder / "report.html").exists() and not (folder / "leaderboard.json").exists()


def test_report__overlay_of_one_run(run_dir, capsys):
    assert main(["report", str(run_dir), "--overlay", "*"]) == 2
    expected = f"error: report: --overlay chooses among the runs of a folder; {run_dir} is one run\n"
    assert capsys.readouterr().err == expected


def test_report__folder_without_runs(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: expected run directories in {tmp_path}, found none\n"
    assert list(tmp_path.iterdir()) == []


def test_report__files_of_the_users_own_are_not_replaced(folder, capsys):
    (folder / "leaderboard.csv").write_text("mine")
    (folder / "plots").mkdir()
    assert main(["report", str(folder)]) == 2
    assert capsys.readouterr().err == (
        f"error: report: {folder} has files that no report wrote (leaderboard.csv, plots); nothing was touched. "
        "Replace them with --overwrite.\n"
    )
    assert (folder / "leaderboard.csv").read_text() == "mine"
    assert main(["report", str(folder), "--overwrite"]) == 0
    assert (folder / "leaderboard.csv").read_text() != "mine"
    assert main(["report", str(folder)]) == 0  # its own it replaces


def test_report__summary_prints_and_writes_nothing(folder, capsys):
    before = sorted(folder.rglob("*"))
    assert main(["report", str(folder), "--summary", "--overlay", "run_00[05]"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("## ")] == ["## train", "## validation"]
    assert "Best step on this split (not selectable)" in said
    assert said.count("\n| run_00") == 2
    assert main(["report", str(folder), "--summary", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert len(summary["validation"]) == 8
    line = summary["validation"][0]
    assert line["step"] == line["best_step_not_selectable"] and line["accuracy"] == line["best_accuracy_not_selectable"]
    assert sorted(folder.rglob("*")) == before


def test_report__summary_of_one_run(folder, capsys):
    assert main(["report", str(folder / "run_003"), "--summary", "--json"]) == 0
    assert [line["run"] for line in json.loads(capsys.readouterr().out)["validation"]] == ["run_003"]


def test_report__summary_has_no_file(folder, capsys):
    assert main(["report", str(folder), "--summary", "--output", "x.html"]) == 2
    assert capsys.readouterr().err == "error: report: --summary prints and writes nothing; leave --output out\n"
