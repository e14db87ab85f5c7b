import json

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
    expected = f"error: report: expected the directory of a finished run, found no directory {tmp_path}/none\n"
    assert capsys.readouterr().err == expected
    assert main(["report", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: report: --output: expected a file, found the directory {tmp_path}\n"
