"""Learned temperatures where a run is told of: printed text, page, card, leaderboards."""

import json
from pathlib import Path

import many_runs
import pytest
from PIL import Image

from hf_transfer.cli import main
from hf_transfer.report import write_model_card, write_plots, write_report
from hf_transfer.report.leaderboard import build_leaderboard
from hf_transfer.report.leaderboard_card import leaderboard_card_text
from hf_transfer.report.saved_run import SavedRun
from hf_transfer.report.study_page import write_study_report
from hf_transfer.report.summary import summary
from hf_transfer.report.temperatures import draw_temperatures, learned_temperatures, over_runs

LEARNED = {"values": [0.8, 1.0, 1.5], "mean": 1.1, "deviation": 0.29439}
WORDS = "mean 1.1000, standard deviation 0.2944 over 3 layers"


@pytest.fixture
def run_dir(make_run):
    run = make_run(classes=["a", "b", "c"])
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"attention_temperatures": LEARNED}))
    return run


def test_learned_temperatures__what_metrics_tell():
    found = learned_temperatures({"attention_temperatures": LEARNED})
    assert (found.values, found.mean, found.deviation, found.words) == ([0.8, 1.0, 1.5], 1.1, 0.29439, WORDS)
    alone = learned_temperatures({"attention_temperatures": {"values": [2.0], "mean": 2.0, "deviation": 0.0}})
    assert alone.words == "mean 2.0000, standard deviation 0.0000 over 1 layer"


@pytest.mark.parametrize("told", [None, 1.0, {}, {"values": []}, {"values": [1.0], "mean": "x", "deviation": 0.0}])
def test_learned_temperatures__none_where_metrics_tell_none(told):
    assert learned_temperatures({} if told is None else {"attention_temperatures": told}) is None


def test_over_runs__the_mean_of_those_that_learned_some():
    other = {"values": [1.0], "mean": 1.3, "deviation": 0.1}
    assert over_runs([{"attention_temperatures": LEARNED}, {}, {"attention_temperatures": other}]) == pytest.approx(
        (1.2, (0.29439 + 0.1) / 2)
    )
    assert over_runs([{}]) is None


def test_draw_temperatures__a_point_for_each_layer():
    (axis,) = draw_temperatures(learned_temperatures({"attention_temperatures": LEARNED})).axes
    lines = {line.get_label(): line for line in axis.get_lines()}
    (points,) = (line for line in lines.values() if len(line.get_ydata()) == 3)
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([1, 2, 3], [0.8, 1.0, 1.5])
    assert set(lines["mean, and the deviation around it"].get_ydata()) == {1.1}
    assert set(lines["where training began"].get_ydata()) == {1.0}


def test_run__page_card_and_picture(run_dir):
    write_plots(run_dir)
    with Image.open(run_dir / "plots/temperatures.png") as picture:
        assert picture.width == 900
    assert "attention_temperatures" not in SavedRun.read(run_dir).splits
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert '<a href="#temperatures">Learned temperatures</a>' in page
    assert f"Of the attention, {WORDS}." in page
    assert 'alt="Learned temperature of each attention layer"' in page
    write_model_card(run_dir)
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    assert f"## Learned temperatures\n\nOf the attention, {WORDS}." in card
    assert "(plots/temperatures.png)" in card


def test_run__nothing_is_said_where_there_are_none(make_run):
    run = make_run(classes=["a", "b", "c"])
    write_plots(run)
    write_model_card(run)
    for text in (write_report(run).read_text(encoding="utf-8"), (run / "README.md").read_text(encoding="utf-8")):
        assert "emperatures" not in text.replace("temperature scaling", "")
    assert not (run / "plots/temperatures.png").exists()


def test_run__printed(run_dir, capsys):
    line = f"learned temperatures of the attention: {WORDS}\n"
    metrics = {"attention_temperatures": LEARNED}
    assert summary(Path("runs/a"), metrics).endswith(f"{line}run directory: runs/a")
    assert main(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out.startswith(line)


def test_study__page_and_card_of_the_leaderboard(tmp_path):
    many_runs.write_runs(tmp_path, runs=4, images=60, seeds=2)
    for seed, mean in enumerate((1.0, 1.5)):
        path = tmp_path / f"run_{seed:03d}" / "metrics.json"
        learned = {"values": [mean - 0.1, mean + 0.1], "mean": mean, "deviation": 0.1}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_temperatures": learned}))
    page = write_study_report(tmp_path).page.read_text(encoding="utf-8")
    assert "Temperature (deviation)" in page
    assert page.count("1.250 (0.100)") == 1
    board = build_leaderboard(tmp_path)
    runs = [run for row in board.tables[0].rows.values() for run in row.runs]
    card = leaderboard_card_text(tmp_path, board, repo_id="ann/small", places={run: run for run in runs})
    section = card.partition("## Learned temperatures")[2].partition("\n## ")[0]
    assert "| backbone_0 | 1.2500 | 0.1000 |" in section.replace("\\", "")
    assert "backbone_1" not in section.replace("\\", "")
