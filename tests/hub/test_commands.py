"""Commands that read a model from the Hub, one that was pushed from a run among them: the real client, a loopback Hub."""

import csv
import json
import shutil
from types import SimpleNamespace

import client
import loopback_hub
import numpy as np
import pytest
import repositories
from datasets import ClassLabel
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.numpy import load_file, save_file

from hf_transfer.report.redaction import public

QUICK = "evaluation.speed=false"
NOT_KNOWN = (
    "error: evaluate: expected --data SOURCE; only the directory of a training run says what to evaluate on, and {} is none, "
    "nor was it pushed from one\n"
)


def read(path):
    return json.loads(path.read_text())


def command(*words):
    return {"job": "command", "words": list(words)}


def write_recipe(path, source, strategy, **model):
    training = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "use_cpu": True, "dataloader_num_workers": 0}
    recipe = {
        "data": {"source": source, "validation_fraction": 0.25},
        "model": {"backbone": "ann/vit", **model},
        "strategy": strategy,
        "training": training,
    }
    path.write_text(json.dumps({**recipe, "output_dir": path.stem}))
    return command("run", path.name)


def lay_out(run, repository):
    """Copy into a repository what a push of a run makes of it, as far as reading goes."""
    shutil.copytree(run / "model", repository)
    for name in ("recipe.json", "metrics.json", "environment.json"):
        (repository / name).write_text(json.dumps(public(read(run / name))))


def write_repositories(models, runs):
    """Lay out two runs; the first one's branch `old` holds a model that takes the least likely class for the likeliest."""
    lay_out(runs / "pushed", models / "pushed")
    lay_out(runs / "private", models / "private")
    old = models / "pushed/.revisions/old"
    lay_out(runs / "pushed", old)
    weights = load_file(old / "model.safetensors")
    turned = {name: -tensor if name.startswith("classifier") else tensor for name, tensor in weights.items()}
    save_file(turned, old / "model.safetensors", metadata={"format": "pt"})
    recipe = read(models / "pushed/recipe.json")
    strange = {
        "no-json": "{",
        "no-object": "[1, 2]",
        "deep": "[" * 100_000,
        "no-data": json.dumps({**recipe, "data": "beans"}),
        "of-the-future": json.dumps({**recipe, "schema_version": 2}),
    }
    for name, text in strange.items():
        (models / name).mkdir()
        (models / name / "recipe.json").write_text(text)
    for name, source in (("of-this-machine", "../../photos"), ("hidden", "ann/animals-here")):
        (models / name).mkdir()
        (models / name / "recipe.json").write_text(json.dumps({**recipe, "data": {"source": source}}))
        (models / name / "environment.json").write_text(json.dumps({"data_hub_id": source, "data_fingerprint": [1]}))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What commands said: of the runs that were pushed by hand, with a fresh cache, and without a connection after that."""
    folder = tmp_path_factory.mktemp("commands")
    models = folder / "hub/models/ann"
    repositories.write_tokens(folder / "hub")
    repositories.write_vit(models / "vit")
    repositories.write_vit(models / "unasked")
    features = {"image": ImageFeature(), "label": ClassLabel(names=repositories.CLASSES)}
    labels = {"train": {"label": [0, 1, 2] * 8}, "test": {"label": [0, 1, 2] * 6}}
    animals = folder / "hub/datasets/ann/animals"
    repositories.write_parquet(animals / "data", features, labels)
    repositories.write_card(animals, "license: mit")
    repositories.write_image_folder(folder / "mine", {"train": 4, "test": 2})
    (folder / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    (folder / "ann/animals-here").mkdir(parents=True)
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        runs = {
            "pushed": write_recipe(folder / "pushed.json", "ann/animals", "full", revision="main"),
            "private": write_recipe(folder / "private.json", str(folder / "mine"), "linear_probe"),
        }
        done = client.run_jobs(client.client_environment(server.url, folder / "trainer"), runs, folder)
        assert [result["status"] for result in done.values()] == [0, 0], done
        write_repositories(models, folder)
        commits = {revision: server.commit("models", "ann/pushed", revision) for revision in ("main", "old")} | {
            "vit": server.commit("models", "ann/vit"),
            "animals": server.commit("datasets", "ann/animals"),
        }
        shutil.copytree(animals, folder / "first")
        shutil.move(folder / "first", animals / ".revisions/first")
        repositories.write_card(animals, "license: apache-2.0")  # the data set has moved on: its commit is another
        local = "hub/models/ann/pushed/.revisions/old"
        jobs = {
            "predict": command("predict", "ann/vit", "photos", "--json"),
            "predict from files": command("predict", "hub/models/ann/vit", "photos", "--json"),
            "predict old": command("predict", "ann/pushed", "photos", "--json", "--revision", "old"),
            "predict old from files": command("predict", local, "photos", "--json"),
            "predict revision of files": command("predict", local, "photos", "--revision", "old"),
            "predict missing": command("predict", "ann/nothing", "photos"),
            "unasked": {"job": "backbone", "model": {"backbone": "ann/unasked"}, "classes": None},
            "explain": command("explain", "ann/vit", "photos", "--output", "maps"),
            "explain old": command("explain", "ann/pushed", "photos", "--output", "old-maps", "--revision", commits["old"]),
            "explain nothing": command("explain", "ann/pushed"),
            "evaluate": command("evaluate", "ann/pushed", "--json", QUICK),
            "evaluate old": command("evaluate", "ann/pushed", "--json", QUICK, "--revision", commits["old"]),
            "evaluate override": command("evaluate", "ann/pushed", "model.revision=old", "--output-dir", "again", QUICK,
                                         "--json"),
            "evaluate train": command("evaluate", "ann/pushed", "--data", "ann/animals", "--split", "train", QUICK, "--json",
                                      "--output-dir", "train"),
            "evaluate private": command("evaluate", "ann/private"),
            "evaluate private train": command("evaluate", "ann/private", "--data", "mine", "--split", "train", QUICK,
                                              "--output-dir", "mine-again"),
            "evaluate other": command("evaluate", "ann/vit"),
            "evaluate missing": command("evaluate", "ann/nothing"),
            "evaluate several": command("evaluate", "ann/vit", "ann/pushed", "--revision", "old"),
            **{name: command("evaluate", f"ann/{name}") for name in (
                "no-json", "no-object", "deep", "no-data", "of-the-future", "of-this-machine", "hidden")},
        }  # fmt: skip
        said = client.run_jobs(client.client_environment(server.url, folder / "home"), jobs, folder)
    offline = {
        "evaluate": command("evaluate", "ann/pushed", "--json", QUICK, "--output-dir", "offline"),
        "evaluate unknown": command("evaluate", "ann/unknown"),
        "evaluate other": command("evaluate", "ann/vit"),
        "evaluate unasked": command("evaluate", "ann/unasked"),
    }
    later = client.run_jobs(client.client_environment(server.url, folder / "home"), offline, folder)
    return SimpleNamespace(folder=folder, said=said, offline=later, commits=commits, url=server.url)


def predictions(hub, name):
    assert hub.said[name]["status"] == 0, hub.said[name]["stderr"]
    return json.loads(hub.said[name]["stdout"])["predictions"]


def test_predict__a_model_of_the_hub_says_what_its_files_say(hub):
    found = predictions(hub, "predict")
    assert [row["file"] for row in found] == ["photos/0.png", "photos/1.png"]
    assert found == predictions(hub, "predict from files")


def test_predict__an_old_revision(hub):
    assert predictions(hub, "predict old") == predictions(hub, "predict old from files")


def test_predict__files_have_no_revisions(hub):
    assert hub.said["predict revision of files"]["stderr"] == (
        "error: model.revision: hub/models/ann/pushed/.revisions/old is a directory here, which has no revisions; leave "
        "it out\n"
    )


def test_explain__a_model_of_the_hub(hub):
    assert hub.said["explain"]["status"] == 0, hub.said["explain"]["stderr"]
    for output, name in (("maps", "predict"), ("old-maps", "predict old")):
        with (hub.folder / output / "explanations.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["predicted"] for row in rows] == [row["class"] for row in predictions(hub, name)]
        assert all((hub.folder / output / row["picture"]).is_file() for row in rows)


def test_explain__without_images(hub):
    assert hub.said["explain nothing"]["status"] == 2
    assert hub.said["explain nothing"]["stderr"] == (
        "error: explain: without images, MODEL is the directory of a run that scored a test split; ann/pushed is none. "
        "Name images\n"
    )


@pytest.mark.parametrize("name", ["predict missing", "evaluate missing"])
def test_missing_model__is_told(hub, name):
    assert hub.said[name]["status"] == 2
    assert hub.said[name]["stderr"] == (
        "error: model.backbone: no model 'ann/nothing' was found on the Hub, and no directory of that name exists here. Check "
        "the spelling; for a private one log in with 'hf auth login'.\n"
    )


def test_train__records_the_commits_of_branches(hub):
    facts = read(hub.folder / "pushed/environment.json")
    assert read(hub.folder / "pushed/recipe.json")["data"]["revision"] is None
    assert read(hub.folder / "pushed/recipe.json")["model"]["revision"] == "main"
    assert (facts["backbone_revision"], facts["data_revision"]) == (hub.commits["vit"], hub.commits["animals"])


def test_evaluate__a_pushed_run_reproduces_its_figures_on_the_data_it_names(hub):
    found = hub.said["evaluate"]
    assert found["status"] == 0, found["stderr"]
    assert json.loads(found["stdout"])["metrics"]["test"] == read(hub.folder / "pushed/metrics.json")["test"]
    facts = read(hub.folder / "runs/evaluate-pushed-animals/environment.json")
    assert facts["backbone_hub_id"] == "ann/pushed"
    assert facts["backbone_revision"] == hub.commits["main"]
    assert facts["data_revision"] == hub.commits["animals"], "the commit it was trained on, not the newest"
    assert facts["seen_in_training"] == {}


def test_evaluate__an_old_commit_is_the_old_model(hub):
    found = {name: json.loads(hub.said[name]["stdout"])["metrics"]["test"] for name in ("evaluate old", "evaluate override")}
    assert found["evaluate old"] == found["evaluate override"]
    assert found["evaluate old"]["nll"] != read(hub.folder / "pushed/metrics.json")["test"]["nll"]
    for name in (f"runs/evaluate-pushed-{hub.commits['old']}-animals", "again"):
        assert read(hub.folder / name / "environment.json")["backbone_revision"] == hub.commits["old"]


@pytest.mark.parametrize(("name", "output", "seen"), [("", "train", 18), ("private ", "mine-again", 9)])
def test_evaluate__training_images_of_a_pushed_run_are_counted(hub, name, output, seen):
    found = hub.said[f"evaluate {name}train"]
    assert found["status"] == 0, found["stderr"]
    assert read(hub.folder / output / "environment.json")["seen_in_training"] == {"train": seen}
    assert f"warning: {seen} of the " in found["stderr"]


def test_evaluate__a_run_trained_on_a_folder_elsewhere_needs_data(hub):
    sources = {"private": "mine", "of-this-machine": "../../photos", "hidden": "ann/animals-here"}
    for name, source in sources.items():
        found = hub.said["evaluate private" if name == "private" else name]
        assert (found["status"], found["stderr"]) == (
            2,
            f"error: evaluate: expected --data SOURCE; ann/{name} was trained on '{source}', which is known by that name "
            "only where that was done\n",
        )


def test_evaluate__a_model_that_is_not_ours_needs_data(hub):
    names = {"evaluate other": "vit"} | {name: name for name in ("no-json", "no-object", "deep", "no-data", "of-the-future")}
    for job, name in names.items():
        assert (hub.said[job]["status"], hub.said[job]["stderr"]) == (2, NOT_KNOWN.format(f"ann/{name}"))


def test_evaluate__one_revision_for_several_models_is_refused(hub):
    assert hub.said["evaluate several"]["stderr"] == "error: evaluate: --revision: expected one MODEL, found 2\n"


def test_evaluate__without_a_connection(hub):
    found = hub.offline["evaluate"]
    assert found["status"] == 0, found["stderr"]
    assert json.loads(found["stdout"])["metrics"]["test"] == read(hub.folder / "pushed/metrics.json")["test"]
    assert hub.offline["evaluate unknown"]["stderr"].startswith(
        "error: model.backbone: ann/unknown is neither a local directory nor in the cache "
    )
    assert hub.offline["evaluate other"]["stderr"] == NOT_KNOWN.format("ann/vit")
    assert hub.offline["evaluate unasked"]["stderr"] == (
        "error: model.backbone: what ann/unasked was trained on is not in the cache (recipe.json), and the Hub cannot be "
        "reached; name the data, or connect once\n"
    )
