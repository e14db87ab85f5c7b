import shutil

import pytest
from PIL import Image

from hf_transfer.errors import RunDirectoryError
from hf_transfer.evaluation.predictions import Predictions
from hf_transfer.report import write_plots
from hf_transfer.report.confusion import plot_confusion_matrix


def test_write_plots(make_run):
    run_dir = make_run()
    write_plots(run_dir)
    assert sorted(path.name for path in (run_dir / "plots").iterdir()) == ["confusion_matrix.png", "curves.png"]
    for path in (run_dir / "plots").iterdir():
        with Image.open(path) as image:
            assert image.width >= 1000


@pytest.mark.parametrize(("splits", "drawn"), [(("validation", "test"), "test"), (("validation",), "validation")])
def test_write_plots__confusion_matrix_of_test_else_validation(make_run, tmp_path, splits, drawn):
    run_dir = make_run(splits=splits)
    write_plots(run_dir)
    found = Predictions.read(run_dir / "predictions" / f"{drawn}.parquet")
    plot_confusion_matrix(found.labels, found.predicted, found.class_names, tmp_path / "expected.png")
    assert (run_dir / "plots" / "confusion_matrix.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_write_plots__history_without_rows_or_none(make_run):
    run_dir = make_run(history=False)
    write_plots(run_dir)
    assert [path.name for path in (run_dir / "plots").iterdir()] == ["confusion_matrix.png"]
    (run_dir / "history.csv").write_text("step,epoch,phase,split,loss\n")
    shutil.rmtree(run_dir / "predictions")
    shutil.rmtree(run_dir / "plots")
    write_plots(run_dir)
    assert not (run_dir / "plots").exists()


def test_write_plots__damaged_history(make_run):
    run_dir = make_run()
    (run_dir / "history.csv").write_text("what,is,this\n")
    with pytest.raises(RunDirectoryError, match=r"history\.csv"):
        write_plots(run_dir)
