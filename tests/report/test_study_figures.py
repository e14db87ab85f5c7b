"""The charts of a leaderboard: axes, what stands where, and the pictures."""

import json

import many_runs
import pytest

from hf_transfer.report.leaderboard import build_leaderboard
from hf_transfer.report.run_overlay import COLOURS, colours_of, read_runs
from hf_transfer.report.study_figures import (
    axis_of,
    cost_of,
    difference_axis,
    draw_accuracy,
    draw_few_shot,
    draw_pareto,
    few_shot,
    pareto,
    save_picture,
)


@pytest.fixture
def root(tmp_path):
    many_runs.write_runs(tmp_path / "runs", 15, 200)
    return tmp_path / "runs"


@pytest.fixture
def table(root):
    (found,) = build_leaderboard(root).tables
    return found


def change_recipes(root, change):
    for place, path in enumerate(sorted(root.glob("*/recipe.json"))):
        recipe = json.loads(path.read_text())
        change(place, recipe)
        path.write_text(json.dumps(recipe))


def test_axis_of__round_ticks_and_room_at_the_ends():
    axis = axis_of([0.7, 0.9], str)
    assert [label for _, label in axis.ticks] == ["0.7", "0.75", "0.8", "0.85", "0.9"]
    assert axis.share(0.8) == pytest.approx(0.5)
    assert 0 < axis.share(0.7) < axis.share(0.9) < 1
    assert (axis.share(-5), axis.share(5)) == (0, 1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1e6])
def test_axis_of__one_value_stands_in_the_middle(value):
    axis = axis_of([value], str)
    assert axis.share(value) == pytest.approx(0.5)
    assert axis.ticks


def test_axis_of__logarithmic_where_values_differ_by_much():
    axis = axis_of([10, 1000], lambda value: f"{value:g}", logarithmic=True)
    assert axis.logarithmic
    assert axis.share(100) == pytest.approx(0.5)
    assert [label for _, label in axis.ticks] == ["10", "20", "50", "100", "200", "500", "1000"]
    assert not axis_of([10, 30], str, logarithmic=True).logarithmic
    assert not axis_of([0, 30], str, logarithmic=True).logarithmic


def test_cost_of__times_have_round_ticks_in_their_unit():
    seconds = cost_of("train_seconds")
    axis = axis_of([60, 600], seconds.short, logarithmic=True, unit=seconds.unit(600))
    assert [label for _, label in axis.ticks] == ["1 min", "2 min", "5 min", "10 min"]
    assert seconds.short(30) == "30 s" and seconds.short(5400) == "1.5 h"


def test_cost_of__a_cost_that_is_not_known_here_goes_by_its_name():
    cost = cost_of("energy_kwh")
    assert (cost.title, cost.shown(1.234), cost.shown(None)) == ("energy kwh", "1.23", "\u2013")


def test_pareto__front_over_the_others(table):
    chart = pareto(table, "train_seconds")
    assert len(chart.marks) == 3
    assert {mark.name for mark in chart.front} == set(table.verdict.cost_front["train_seconds"])
    assert [mark.front for mark in chart.marks] == sorted(mark.front for mark in chart.marks)
    first = next(mark for mark in chart.marks if mark.rank == 1)
    assert first.name == table.verdict.standings[0].name
    assert 0 < first.low < first.y < first.high < 1
    train_seconds = cost_of("train_seconds").shown(table.rows[first.name].costs["train_seconds"])
    assert first.said == f"{first.name}: accuracy {table.verdict.standings[0].accuracy:.4f}, training time {train_seconds}"


def test_pareto__none_where_fewer_than_two_have_the_cost(table):
    assert pareto(table, "latency_ms") is None


def test_few_shot__a_line_for_each_way_of_training(root):
    change_recipes(root, lambda place, recipe: recipe["data"].update(samples_per_class=[5, 20, None, 20, 5][place % 5]))
    change_recipes(root, lambda place, recipe: recipe.update(seed=place % 5 // 3))
    (table,) = build_leaderboard(root).tables
    chart = few_shot(table, whole=400)
    assert {line.name for line in chart.lines} == {"backbone_0", "backbone_1", "backbone_2"}
    assert [label for _, label in chart.x.ticks] == ["5", "20", "400"]
    for line in chart.lines:
        assert [mark.x for mark in line.marks] == [place for place, _ in chart.x.ticks]
    assert [label for _, label in few_shot(table, whole=None).x.ticks] == ["5", "20"]


def test_few_shot__none_where_the_number_does_not_vary(table):
    assert few_shot(table, whole=400) is None


def test_difference_axis__holds_zero_and_every_interval(table):
    axis = difference_axis(table)
    ends = [end for comparison in table.verdict.comparisons for end in comparison.difference_ci95]
    assert axis.low < min(*ends, 0) and axis.high > max(*ends, 0)
    assert "0" in [label for _, label in axis.ticks]


def test_difference_axis__one_candidate(root):
    for number in range(5, 15):
        (root / f"run_{number:03d}/recipe.json").unlink()
    (table,) = build_leaderboard(root).tables
    assert difference_axis(table) is None


def test_pictures__bars_from_zero_with_their_intervals(root, table, tmp_path):
    colours = colours_of(read_runs(root, build_leaderboard(root)))
    (axis,) = draw_accuracy(table, colours).axes
    assert [bar.get_width() for bar in axis.patches] == [standing.accuracy for standing in table.verdict.standings]
    assert {bar.get_x() for bar in axis.patches} == {0}
    files = save_picture(lambda: draw_accuracy(table, colours), tmp_path / "accuracy")
    assert [path.name for path in files] == ["accuracy.png", "accuracy.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG") and b"<svg" in files[1].read_bytes()


def test_pictures__many_candidates_with_long_names(tmp_path):
    root = tmp_path / "runs"
    many_runs.write_runs(root, 40, 30, seeds=1)
    change_recipes(root, lambda place, recipe: recipe["model"].update(backbone=f"timm:{place}{'a_long_name' * 9}"))
    board = build_leaderboard(root)
    colours = colours_of(read_runs(root, board))
    chart = pareto(board.tables[0], "parameters")
    save_picture(lambda: draw_pareto(chart, colours), tmp_path / "pareto")  # a layout without room would warn
    save_picture(lambda: draw_accuracy(board.tables[0], colours), tmp_path / "accuracy")
    assert draw_pareto(chart, colours).legends[0].get_texts()[-1].get_text() == "and 10 more"


def test_pictures__hostile_names_are_drawn_as_they_are(root, tmp_path):
    change_recipes(
        root, lambda place, recipe: recipe["model"].update(backbone=f"timm:$x_{{{place // 5}}}$ <b>--><script>\\frac")
    )
    change_recipes(root, lambda place, recipe: recipe["data"].update(samples_per_class=5 + place % 5))
    change_recipes(root, lambda place, recipe: recipe.update(seed=0))
    board = build_leaderboard(root)
    (table,) = board.tables
    colours = colours_of(read_runs(root, board))
    chart = few_shot(table, whole=None)
    for stem, draw in {
        "accuracy": lambda: draw_accuracy(table, colours),
        "pareto": lambda: draw_pareto(pareto(table, "parameters"), colours),
        "few_shot": lambda: draw_few_shot(chart, COLOURS[: len(chart.lines)]),
    }.items():
        _, svg = save_picture(draw, tmp_path / stem)
        assert b"<script" not in svg.read_bytes()
