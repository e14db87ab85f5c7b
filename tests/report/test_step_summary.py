"""The step that validation chooses: the earliest of equals, and never by another split."""

from pathlib import Path

from hf_transfer.report.history import read_history
from hf_transfer.report.run_overlay import FolderRun
from hf_transfer.report.saved_run import SavedRun
from hf_transfer.report.step_summary import best_step, summarise_steps, summary_json, summary_markdown

HEADER = "step,epoch,phase,split,loss,accuracy\n"
LINES = """10,1,head,train,1.0,
10,1,head,validation,0.9,0.5
10,1,head,test,0.9,0.9
20,2,full,train,0.5,
20,2,full,validation,0.8,0.7
20,2,full,test,0.7,0.6
30,3,full,validation,0.7,0.7
30,3,full,test,0.6,0.8
"""


def run_of(path: Path, text: str, *, finished: bool = True) -> FolderRun:
    path.mkdir(parents=True)
    (path / "history.csv").write_text(HEADER + text)
    history = read_history(path / "history.csv")
    return FolderRun(path.name, path.name, SavedRun(path, {}, {}, {}, None, history), finished, "")


def test_summarise_steps__chosen_on_validation_the_earliest_of_equals(tmp_path):
    summary = summarise_steps([run_of(tmp_path / "a", LINES)])
    assert list(summary) == ["train", "validation", "test"]
    (test,) = summary["test"]
    assert (test.step, test.phase, test.accuracy) == (20, "full", 0.6)
    assert (test.best_step_not_selectable, test.best_accuracy_not_selectable) == (10, 0.9)
    (train,) = summary["train"]
    assert (train.step, train.accuracy, train.best_step_not_selectable) == (20, None, None)


def test_summarise_steps__a_split_not_scored_at_that_step_and_no_validation(tmp_path):
    first = run_of(tmp_path / "a", "10,1,full,validation,1,0.5\n20,2,full,test,1,0.6\n")
    second = run_of(tmp_path / "b", "10,1,full,test,1,0.4\n")
    one, other = summarise_steps([first, second])["test"]
    assert (one.step, one.accuracy, one.best_step_not_selectable) == (10, None, 20)
    assert (other.step, other.phase, other.accuracy) == (None, "", None)


def test_best_step__none_without_accuracy(tmp_path):
    assert best_step(run_of(tmp_path / "a", "10,1,full,validation,1,\n").saved.history, "validation") is None


def test_summary_markdown(tmp_path):
    runs = [run_of(tmp_path / "a|b", LINES), run_of(tmp_path / "c", LINES[:60], finished=False)]
    assert (
        summary_markdown(summarise_steps(runs))
        == """## train

The runs logged no accuracy on this split, only its loss.

## validation

| Run | Step chosen on validation | Phase | Accuracy there | Best step on this split (not selectable) | Accuracy there (not selectable) |
| :-- | --: | --: | --: | --: | --: |
| a\\|b | 20 | full | 0.7000 | 20 | 0.7000 |
| c `*` | 10 | head | 0.5000 | 10 | 0.5000 |

## test

| Run | Step chosen on validation | Phase | Accuracy there | Best step on this split (not selectable) | Accuracy there (not selectable) |
| :-- | --: | --: | --: | --: | --: |
| a\\|b | 20 | full | 0.6000 | 10 | 0.9000 |

Unfinished runs are marked with `*`: their step is the best so far.
"""  # noqa: E501
    )


def test_summary_markdown__nothing_logged():
    assert summary_markdown({}) == "No run has logged anything yet.\n"


def test_summary_json(tmp_path):
    assert summary_json(summarise_steps([run_of(tmp_path / "a", LINES)]))["test"] == [
        {
            "run": "a",
            "finished": True,
            "step": 20,
            "phase": "full",
            "accuracy": 0.6,
            "best_step_not_selectable": 10,
            "best_accuracy_not_selectable": 0.9,
        }
    ]
