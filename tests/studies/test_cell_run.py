"""A tuned cell: its run has the setting that its search chose, says so, and goes on wherever it was killed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import repositories

from hf_transfer.errors import RunDirectoryError
from hf_transfer.run_directory import RunDirectory
from hf_transfer.studies.cell_run import carry_out
from hf_transfer.studies.study import cells, load_study

STUDY = {
    "base": {
        "data": {
            "source": "package:digits",
            "test_fraction": 0.2,
            "max_train_samples": 24,
            "max_validation_samples": 20,
            "max_test_samples": 20,
        },
        "model": {"backbone": "vit"},
        "strategy": "full",
        "training": {
            "num_train_epochs": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-9,
            "warmup_steps": 0,
            "dataloader_num_workers": 0,
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": [],
        },
    },
    "axes": {"strategy": ["full", "linear_probe"], "seed": [0]},
    "tune": {"trials": 2, "space": {"training.learning_rate": [1e-9, 0.03]}},
}
SCRIPT = """
from hf_transfer.studies.cell_run import carry_out
from hf_transfer.studies.study import cells, load_study

carry_out(cells(load_study("study.json"))[0])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the study file and its cells carried out: a fine-tuned one that is tuned, and a probe."""
    folder = tmp_path_factory.mktemp("whole")
    repositories.write_vit(folder / "vit")
    (folder / "study.json").write_text(json.dumps(STUDY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_TRANSFER_CACHE", str(folder / "cache"))
        for cell in cells(load_study("study.json")):
            carry_out(cell)
    return folder


@pytest.fixture
def found(whole, tmp_path, monkeypatch):
    """The cells of the same study in another folder, where nothing of them is carried out."""
    for name in ("vit", "study.json"):
        (tmp_path / name).symlink_to(whole / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    return cells(load_study("study.json"))


def _predictions(folder):
    return parquet.read_table(folder / "predictions" / "validation.parquet").to_pydict()


def test_carry_out__the_run_is_the_chosen_trial_with_more_splits(whole, found):
    tuned, frozen = found
    directory = RunDirectory(whole / tuned.recipe.output_dir)
    tuning = json.loads((directory.root / "tuning.json").read_text())
    trials = whole / "runs/study/tuning" / tuned.id
    assert tuning == json.loads((trials / "trials.json").read_text())
    assert tuning["chosen"] == {"training.learning_rate": 0.03}  # the recipe's own rate changes next to nothing
    recipe = json.loads(directory.recipe.read_text())
    assert recipe["training"]["learning_rate"] == 0.03
    assert recipe["evaluation"]["splits"] == ["train", "validation", "test"] and recipe["description"] == ""
    assert _predictions(directory.root) == _predictions(trials / "trial-2")
    assert directory.read_metrics()["validation"]["accuracy"] == tuning["trials"][1]["validation_accuracy"]

    assert RunDirectory(whole / frozen.recipe.output_dir).is_finished
    assert not (whole / frozen.recipe.output_dir / "tuning.json").exists()
    assert [path.name for path in trials.parent.iterdir()] == [tuned.id]


def test_carry_out__goes_on_with_a_run_that_was_begun(whole, found):
    shutil.copytree(whole / "runs/study/cells", "runs/study/cells")  # without the search
    directory = RunDirectory(Path(found[0].recipe.output_dir))
    told = (directory.root / "tuning.json").read_bytes()
    directory.card.unlink()
    carry_out(found[0])
    assert directory.is_finished
    assert _predictions(directory.root) == _predictions(whole / found[0].recipe.output_dir)
    assert (directory.root / "tuning.json").read_bytes() == told
    assert not Path("runs/study/tuning").exists()


def test_carry_out__refuses_a_folder_of_something_else_before_the_search(found):
    root = Path(found[0].recipe.output_dir)
    root.mkdir(parents=True)
    (root / "thesis.tex").write_text("words")
    with pytest.raises(RunDirectoryError, match=r"is not empty and holds no run of this package \(thesis\.tex\)"):
        carry_out(found[0])
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]
    assert not Path("runs/study/tuning").exists()


def test_carry_out__a_killed_search_goes_on_as_if_it_had_not_been(whole, found):
    tuned = found[0]
    trials = Path("runs/study/tuning", tuned.id)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not (trials / "trial-2" / "recipe.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = json.loads((trials / "trials.json").read_text())
    assert [trial["state"] for trial in left["trials"]] == ["done", "new"] and left["chosen"] is None
    first = (trials / "trial-1" / "metrics.json").stat().st_mtime_ns

    carry_out(tuned)
    assert (trials / "trial-1" / "metrics.json").stat().st_mtime_ns == first
    directory = Path(tuned.recipe.output_dir)
    assert _found(directory) == _found(whole / directory)
    assert _predictions(directory)["predicted"] == _predictions(whole / directory)["predicted"]


def _found(directory):
    tuning = json.loads((directory / "tuning.json").read_text())
    figures = [(trial["validation_accuracy"], pytest.approx(trial["validation_nll"])) for trial in tuning["trials"]]
    return [trial["values"] for trial in tuning["trials"]], figures, tuning["chosen"]
