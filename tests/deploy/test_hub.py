"""What of a run is published, and under which name; tests/hub pushes it."""

import json
from pathlib import Path
from types import SimpleNamespace

import label_runs
import pytest

from hf_transfer.deploy.hub import (
    Destination,
    Repository,
    Stated,
    check_publishable,
    push_command,
    repository_name,
    run_content,
)
from hf_transfer.errors import UserError
from hf_transfer.metrics.headline import ACCURACY, MEAN_AVERAGE_PRECISION
from hf_transfer.report.model_card import model_card_text
from hf_transfer.run_directory import RunDirectory

TOKEN = "hf_" + "aB" * 17


@pytest.fixture
def run(tmp_path):
    """The files of a run, and others beside them."""
    run = RunDirectory(tmp_path / "a run")
    run.root.mkdir()
    (run.root / "recipe.json").write_text(json.dumps({"output_dir": "/home/ann/runs/a run", "data": {"source": "/data/cats"}}))
    (run.root / "metrics.json").write_text(json.dumps({"test": {"accuracy": 0.5}}))
    environment = {
        "skipped": {"test": [["ann.jpg", "broken"]]},
        "duplicates_across_splits": [["a.jpg", "b.jpg"]],
        "python": "3",
    }
    (run.root / "environment.json").write_text(json.dumps(environment | {"seen_in_training": {"test": 3}}))
    for name in ("README.md", "history.csv", "hub.json", "report.html", "calibration.json", "label_quality.json", "probe.json"):
        (run.root / name).write_text("text")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "training_args.bin", "optimizer.pt"):
        run.model.mkdir(exist_ok=True)
        (run.model / name).write_text("{}")
    for name in ("curves.png", "top_losses.png", "confused_pairs.png", "explanations.png", "explanations.csv"):
        run.plots.mkdir(exist_ok=True)
        (run.plots / name).write_text("pixels")
    for folder in ("predictions", "checkpoints", "adapter", "export", "tensorboard"):
        (run.root / folder).mkdir()
        (run.root / folder / "config.json").write_text("{}")
    return run


PUBLISHED = {
    "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "recipe.json", "metrics.json",
    "environment.json", "history.csv", "plots/curves.png",
}  # fmt: skip
OF_IMAGES = {"plots/top_losses.png", "plots/confused_pairs.png", "plots/explanations.png"}


def test_run_content__the_model_at_the_root_and_what_tells_of_it(run):
    content = run_content(run, "# Card")
    assert set(content) == PUBLISHED | OF_IMAGES
    assert content["README.md"] == b"# Card"
    assert json.loads(content["recipe.json"]) == {"output_dir": "a run", "data": {"source": "cats"}}
    assert json.loads(content["environment.json"]) == {"python": "3"}


def test_run_content__images_of_the_data_stay_at_home(run):
    assert set(run_content(run, "# Card", images=False)) == PUBLISHED


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("quickstart", "quickstart"),
        ("A squeeze, net", "A-squeeze-net"),
        ("..v1..2--x", "v1.2-x"),
        ("model.git", "model"),
        ("Zürich naïf", "Zurich-naif"),
        ("日本", ""),
        ("日本 v2", ""),
        ("a" * 200, "a" * 96),
        ("---", ""),
    ],
)
def test_repository_name__is_one_that_the_client_takes(folder, name):
    from huggingface_hub.utils import validate_repo_id

    assert repository_name(Path("/runs") / folder) == name
    if name:
        validate_repo_id(f"ann/{name}")


def test_push_command__says_all_that_was_asked_for():
    run = RunDirectory(Path("runs/a run"))
    assert push_command(run, Destination()) == "hf-transfer push 'runs/a run'"
    destination = Destination("ann/x", private=False, revision="v 1", images=False)
    assert push_command(run, destination) == (
        "hf-transfer push 'runs/a run' --repo-id ann/x --revision 'v 1' --public --without-images"
    )
    assert push_command(run, Destination(create_pr=True)).endswith(" --create-pr")


def test_check_publishable__refuses_what_is_no_finished_run(run, tmp_path):
    check_publishable(run)
    (run.model / "config.json").unlink()
    with pytest.raises(UserError, match="saved no model; there is nothing to publish"):
        check_publishable(run)
    (run.root / "README.md").unlink()
    for root in (run.root, tmp_path / "nothing"):
        with pytest.raises(UserError, match="push: expected the directory of a finished run, found none in"):
            check_publishable(RunDirectory(root))


class _Held(Repository):
    """A repository whose card is known."""

    text = ""

    def card(self, head):
        return self.text


def test_stated__accuracy_or_mean_average_precision_never_one_for_the_other(tmp_path):
    run = label_runs.write_label_run(tmp_path / "labels")
    repository = _Held("ann/labels", Destination())
    repository.text = model_card_text(run, repo_id="ann/labels")
    found = repository.stated(SimpleNamespace(sha="c0ffee"))
    figure = json.loads((run / "metrics.json").read_text())["test"]["mean_average_precision"]
    assert found == Stated(figure, "the test split of shapes", "c0ffee", MEAN_AVERAGE_PRECISION)
    repository.text = repository.text.replace("type: mean_average_precision", "type: accuracy")
    assert repository.stated(SimpleNamespace(sha="c0ffee")).headline == ACCURACY
