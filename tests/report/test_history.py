import pytest

from hf_transfer.errors import RunDirectoryError
from hf_transfer.report.history import phase_spans, read_history

HEADER = "step,epoch,phase,split,loss,accuracy,macro_f1,learning_rate/head,trainable_parameters\n"


def test_read_history__empty_cells_are_none(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(HEADER + "5,0.5,head,train,1.25,,,,10\n10,1.0,head,validation,nan,0.5,0.4,0.001,10\n")
    train, validation = read_history(path)
    assert (train.step, train.loss, train.accuracy, train.learning_rates) == (5, 1.25, None, {})
    assert (validation.loss, validation.macro_f1, validation.learning_rates) == (None, 0.4, {"head": 0.001})


def test_read_history__resumed_run_keeps_the_later_line_and_drops_a_cut_one(tmp_path):
    path = tmp_path / "history.csv"
    lines = ["5,,p,train,1.0,,,,", "10,,p,train,0.9,,,,", "15,,p,tra", "10,,p,train,0.8,,,,", "15,,p,train,0.7,,,,"]
    path.write_text(HEADER + "\n".join(lines))
    assert [(row.step, row.loss) for row in read_history(path)] == [(5, 1.0), (10, 0.8), (15, 0.7)]


def test_read_history__header_only(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(HEADER)
    assert read_history(path) == []


def test_read_history__not_a_history(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RunDirectoryError, match="found no step and no split"):
        read_history(path)
    with pytest.raises(RunDirectoryError, match="no such file"):
        read_history(tmp_path / "none.csv")


def test_phase_spans(history_file):
    rows = read_history(history_file([("head", ["head"], 10), ("all", ["stem", "head"], 99)]))
    spans = [(span.name, span.start, span.end, span.last_epoch, span.trainable_parameters) for span in phase_spans(rows)]
    assert spans == [("head", 0, 40, 2.0, 10), ("all", 40, 80, 4.0, 99)]
