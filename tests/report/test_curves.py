import math

import numpy as np
import pytest
from PIL import Image

from hf_transfer.errors import RunDirectoryError
from hf_transfer.report.curves import draw_curves, plot_curves
from hf_transfer.report.figures import drawing
from hf_transfer.report.history import read_history

GROUPS = ["stem", "stage1", "stage2", "head"]
TWO_PHASES = [("head", ["head"], 1539), ("all", GROUPS, 11_178_051)]


def draw(path):
    with drawing():
        return draw_curves(read_history(path))


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def vertical_lines(axis):
    return [line.get_xdata()[0] for line in axis.lines if len(set(line.get_xdata())) == 1]


def test_plot_curves__size_and_equal_bytes(history_file, tmp_path):
    path = history_file(TWO_PHASES)
    plot_curves(path, tmp_path / "new" / "a.png")
    plot_curves(path, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.width == 1350
        assert image.height == pytest.approx((2.9 + 2.9 + 2.1 + 0.75) * 150, abs=1)
        assert np.asarray(image.convert("L")).std() > 5
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_draw_curves__values_are_those_of_the_file(history_file):
    figure = draw(history_file(TWO_PHASES))
    loss, accuracy, rates = figure.axes
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert legend(loss) == legend(accuracy) == ["train", "validation"]
    lines = {line.get_label(): line for line in loss.lines}
    assert list(lines["validation"].get_xdata()) == [20, 40, 60, 80]
    assert lines["validation"].get_ydata()[0] == pytest.approx(math.exp(-0.5) + 0.1)
    assert len(lines["train"].get_xdata()) == 16
    assert "4 epochs" in rates.get_xlabel()


def test_draw_curves__phases_are_marked_and_named(history_file):
    figure = draw(history_file(TWO_PHASES))
    assert all(vertical_lines(axis) == [40] for axis in figure.axes)
    assert [text.get_text() for text in figure.axes[0].texts] == ["head\n1.54 k trained", "all\n11.2 M trained"]


def test_draw_curves__one_phase_has_no_marks(history_file):
    figure = draw(history_file([("full", GROUPS, 100)]))
    assert all(not vertical_lines(axis) and not axis.texts for axis in figure.axes)


def test_draw_curves__many_phases_keep_distinct_labels(history_file):
    figure = draw(history_file([(f"unfreeze stage {i}", GROUPS, i) for i in range(9)]))
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == [f"unfreeze stage {i}" for i in range(9)]
    assert {text.get_rotation() for text in figure.axes[0].texts} == {30}
    figure = draw(history_file([(f"unfreeze stage {i}", GROUPS, i) for i in range(14)]))
    assert [text.get_text() for text in figure.axes[0].texts] == [str(i) for i in range(1, 15)]


def test_draw_curves__equal_learning_rates_share_a_line_and_frozen_groups_have_a_gap(history_file):
    rates = draw(history_file(TWO_PHASES)).axes[2]
    assert legend(rates) == ["stem", "stage1, stage2", "head"]
    lines = {line.get_label(): line for line in rates.lines if len(set(line.get_xdata())) > 1}
    frozen = np.isnan(lines["stem"].get_ydata())
    assert list(lines["stem"].get_xdata()[frozen]) == [5, 10, 15, 20, 25, 30, 35, 40]
    assert not np.isnan(lines["head"].get_ydata()).any()
    # The head's line covers that of the stages in the second phase.
    assert lines["stage1, stage2"].get_linewidth() > lines["head"].get_linewidth()


def test_draw_curves__layer_groups_are_named_by_their_end(tmp_path):
    path = tmp_path / "history.csv"
    groups = [f"timm_model.blocks.{i}" for i in range(4)]
    path.write_text(
        f"step,split,loss,{','.join(f'learning_rate/{group}' for group in groups)}\n1,train,0.5,1,2,2,2\n2,train,0.4,1,2,2,2\n"
    )
    assert legend(draw(path).axes[1]) == ["blocks.0", "blocks.1 to blocks.3 (3)"]


def test_draw_curves__long_training_shows_the_moving_average(history_file):
    loss = draw(history_file([("full", GROUPS, 1)], epochs=20, log=2)).axes[0]
    raw, mean, _ = loss.lines
    assert legend(loss)[0].startswith("train\n(mean of 5 lines)")
    assert len(raw.get_ydata()) == len(mean.get_ydata()) == 200
    assert mean.get_ydata()[100] == pytest.approx(np.mean(raw.get_ydata()[98:103]))


def test_draw_curves__monitored_split_is_dashed_and_its_name_literal(history_file):
    loss = draw(history_file([("full", GROUPS, 1)], extra_splits=("$x^2$_test",))).axes[0]
    assert legend(loss) == ["train", "validation", r"\$x^2\$_test"]
    assert loss.lines[2].get_linestyle() == "--"


def test_draw_curves__panels_without_values_are_left_out(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,split,loss\n1,train,0.5\n2,train,0.4\n")
    figure = draw(path)
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss"]
    assert figure.axes[0].get_xlabel() == "step"


def test_plot_curves__single_row(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,split,loss,accuracy,learning_rate/head\n0,validation,0.5,1.0,0.0\n")
    plot_curves(path, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_plot_curves__nothing_to_draw(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,split,loss\n")
    with pytest.raises(ValueError, match="at least one row"):
        plot_curves(path, tmp_path / "a.png")
    with pytest.raises(RunDirectoryError, match="no such file"):
        plot_curves(tmp_path / "none.csv", tmp_path / "a.png")


def test_drawing__users_settings_neither_used_nor_lost(history_file, tmp_path):
    import matplotlib

    path = history_file(TWO_PHASES)
    plot_curves(path, tmp_path / "a.png")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 40.0}):
        plot_curves(path, tmp_path / "b.png")
        assert matplotlib.rcParams["text.usetex"] is True
        assert matplotlib.rcParams["font.size"] == 40.0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_draw_curves__mean_average_precision_in_the_place_of_accuracy(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(
        "step,epoch,phase,split,loss,mean_average_precision,macro_f1\n"
        "5,1,full,train,0.9,,\n5,1,full,validation,0.8,0.4,0.1\n10,2,full,validation,0.7,0.6,0.2\n"
    )
    axes = draw_curves(read_history(path)).axes
    assert [axis.get_ylabel() for axis in axes] == ["loss", "mean average precision"]
    assert axes[1].lines[0].get_ydata().tolist() == [0.4, 0.6]
