"""Data sets of the Hub through the real client: columns, classes, splits, the commit, and the messages when it fails."""

import shutil

import client
import datasets
import loopback_hub
import pytest
import repositories
from datasets import ClassLabel, Image, Value

CLASSES = repositories.CLASSES
LABEL = ClassLabel(names=CLASSES)
TRAIN, TEST = [0, 1, 2] * 4, [2, 1, 0] * 2
CONFIGURATIONS = """configs:
- config_name: small
  data_files:
  - split: train
    path: small/train-*
  - split: test
    path: small/test-*
- config_name: large
  data_files:
  - split: train
    path: large/train-*
  - split: test
    path: large/test-*"""


def _write_repositories(root):
    sets = root / "datasets"

    def write(name, features, train, test, seed=0, folder="data"):
        repositories.write_parquet(sets / name / folder, features, {"train": train, "test": test}, seed)

    def labelled(name, image="image", label="label", **options):
        write(name, {image: Image(), label: LABEL}, {label: TRAIN}, {label: TEST}, **options)

    labelled("ann/plain")
    labelled("ann/plain", folder=".revisions/v1/data", seed=1)
    labelled("ann/cifar", image="img")
    labelled("ann/odd_names", image="photo", label="species")
    names = [["10", "9", "emu"][label] for label in TRAIN]
    write("ann/text", {"image": Image(), "label": Value("string")}, {"label": names}, {"label": ["9", "emu"]})
    fine_coarse = {"image": Image(), "fine": LABEL, "coarse": ClassLabel(names=["small", "big"])}
    coarse = [int(label == 2) for label in TRAIN]
    write("ann/two_labels", fine_coarse, {"fine": TRAIN, "coarse": coarse}, {"fine": TEST, "coarse": [0] * 6})
    write("ann/two_images", {"a": Image(), "b": Image(), "label": LABEL}, {"label": TRAIN}, {"label": TEST})
    write("ann/no_label", {"image": Image(), "breed": Value("string")}, {"breed": ["x"] * 12}, {"breed": ["x"]})
    for name, kind in (("multi_label", LABEL), ("numbers", Value("int64"))):
        tags = {"image": Image(), "label": datasets.List(kind)}
        write(f"ann/{name}", tags, {"label": [sorted({0, c}) for c in TRAIN]}, {"label": [[2, 1], []]})
    write("ann/hidden_test", {"image": Image(), "label": LABEL}, {"label": TRAIN}, {"label": [-1] * 6})
    patients = {"image": Image(), "label": LABEL, "patient": Value("int64"), "boxes": datasets.List(Value("float32"))}
    boxes = [[0.0]] * 12
    write(
        "ann/patients",
        patients,
        {"label": TRAIN, "patient": [row // 3 for row in range(12)], "boxes": boxes},
        {"label": TEST, "patient": [9] * 5 + [0], "boxes": boxes[:6]},
    )
    absent = {"patient": [*range(11), None], "boxes": boxes}
    places = {"image": Image(), "label": LABEL, "place": Value("string")}
    write(
        "ann/nameless_group", places, {"label": TRAIN, "place": ["", *"abcdefghijk"]}, {"label": TEST, "place": list("uvwxyz")}
    )
    write("ann/unknown_patient", patients, {"label": TRAIN, **absent}, {"label": TEST, "patient": [9] * 6, "boxes": boxes[:6]})
    write("ann/holes", {"image": Image(), "label": LABEL}, {"label": [*TRAIN[:-1], None]}, {"label": TEST})
    labelled("ann/configurations", folder="small")
    labelled("ann/configurations", folder="large", seed=1)
    repositories.write_card(sets / "ann/configurations", CONFIGURATIONS)
    shutil.copytree(sets / "ann/configurations", sets / "ann/with_default")
    repositories.write_card(
        sets / "ann/with_default", CONFIGURATIONS.replace("config_name: large", "config_name: large\n  default: true")
    )
    columns = {split: {"label": TRAIN} for split in ("train", "dev", "validation")}
    repositories.write_parquet(sets / "ann/two_validations/data", {"image": Image(), "label": LABEL}, columns)
    repositories.write_parquet(
        sets / "ann/other_split/data", {"image": Image(), "label": LABEL}, {"unsupervised": {"label": TRAIN}}
    )
    repositories.write_image_folder(sets / "ann/Class-Folders", {"train": 4, "test": 2})
    repositories.write_card(sets / "ann/Class-Folders", "license: mit")
    repositories.write_card(sets / "ann/words", "license: mit")
    (sets / "ann/torn").mkdir()
    (sets / "ann/torn/train.parquet").write_bytes(b"PAR1 and no more")
    labelled("ann/torn_card")
    repositories.write_card(sets / "ann/torn_card", "license: [mit")
    for name, access in (("ann/private", {"private": True}), ("ann/gated", {"gated": "auto"})):
        labelled(name)
        repositories.write_access(sets / name, **access)
    marker = root / "code_was_run"
    labelled("ann/script")
    (sets / "ann/script/script.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    shutil.copytree(sets / "ann/plain/data", sets / "ann/script/.revisions/refs%2Fconvert%2Fparquet/default")
    return marker


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The results of every job, in a process with a connection (but no token) and in one after the server has stopped."""
    folder = tmp_path_factory.mktemp("data_sets")
    root, home = folder / "hub", folder / "home"
    marker = _write_repositories(root)

    def load(source, **data):
        return {"job": "splits", "data": {"source": source, **data}}

    with loopback_hub.LoopbackHub(root) as server:
        commit = server.commit("datasets", "ann/plain", "v1")
        jobs = {path.name: load(f"ann/{path.name}") for path in sorted((root / "datasets/ann").iterdir())}
        jobs |= {
            "branch": load("ann/plain", revision="v1"),
            "commit": load("ann/plain", revision=commit),
            "fine": load("ann/two_labels", label_column="fine"),
            "coarse": load("ann/two_labels", label_column="coarse"),
            "misspelt label": load("ann/two_labels", label_column="fien"),
            "patients": load("ann/patients", group_column="patient", validation_fraction=0.25),
            "unknown_patient": load("ann/unknown_patient", group_column="patient"),
            "nameless_group": load("ann/nameless_group", group_column="place"),
            "misspelt group": load("ann/patients", group_column="patiant"),
            "group that is the label": load("ann/patients", group_column="label"),
            "group that is many": load("ann/patients", group_column="boxes"),
            "several": load("ann/multi_label", task="multi_label"),
            "several numbers": load("ann/numbers", task="multi_label"),
            "image": load("ann/two_images", image_column="b"),
            "image that is none": load("ann/two_images", image_column="label"),
            "small": load("ann/configurations", config_name="small"),
            "large": load("ann/configurations", config_name="large"),
            "unknown configuration": load("ann/configurations", config_name="larg"),
            "held out": load("ann/hidden_test", test_fraction=0.25),
            "converted script": load("ann/script", revision="refs/convert/parquet"),
            "unknown revision": load("ann/plain", revision="v2"),
            "unknown": load("ann/plane"),
            "no id": load("my data"),
            "a reader of datasets": load("imagefolder"),
        }
        online = client.run_jobs(client.client_environment(server.url, home), jobs, folder)
        commits = {name: server.commit("datasets", name) for name in ("ann/plain", "ann/Class-Folders", "ann/configurations")}
        commits |= {"v1": commit, "converted": server.commit("datasets", "ann/script", "refs/convert/parquet")}
    again = ["plain", "branch", "commit", "Class-Folders", "small", "large", "with_default", "configurations"]
    jobs = {name: jobs[name] for name in again}
    jobs |= {"not in the cache": load("ann/plane"), "revision not in the cache": load("ann/plain", revision="v2")}
    offline = client.run_jobs(client.client_environment(server.url, home), jobs, folder)
    results = {"online": online, "offline": offline}
    return {**results, "commits": commits, "marker": marker, "url": server.url, "home": home}


def _by_sample(found, split):
    """Return sample id to label of one split."""
    table = found["tables"][split]
    return dict(zip(table["sample_ids"], table["labels"], strict=True))


@pytest.mark.parametrize("name", ["plain", "cifar", "odd_names", "fine", "image", "small", "converted script"])
def test_parquet__labels_classes_splits_and_sample_ids(hub, name):
    found = hub["online"][name]
    assert found["class_names"] == CLASSES
    assert list(found["tables"]) == ["train", "validation", "test"]
    assert _by_sample(found, "test") == {f"test/{row}": label for row, label in enumerate(TEST)}
    everything = _by_sample(found, "train") | _by_sample(found, "validation")
    assert everything == {f"train/{row}": label for row, label in enumerate(TRAIN)}
    assert len(found["tables"]["validation"]["labels"]) == 3  # a fifth of twelve, of every class


def test_parquet__images_are_the_stored_bytes(hub):
    found = hub["online"]
    images = {name: set(found[name]["tables"]["test"]["images"]) for name in ("plain", "branch", "cifar", "small", "large")}
    assert len(images["plain"]) == 6
    assert images["plain"] == images["cifar"] == images["small"]
    assert images["branch"] == images["large"]  # both written with another seed
    assert images["plain"].isdisjoint(images["branch"])


def test_class_folders__are_read_as_classes(hub):
    found = hub["online"]["Class-Folders"]
    assert found["class_names"] == CLASSES
    assert sorted(found["tables"]["test"]["labels"]) == [0, 0, 1, 1, 2, 2]
    assert len(found["tables"]["train"]["labels"]) + len(found["tables"]["validation"]["labels"]) == 12


def test_text_labels__are_classes_in_natural_order(hub):
    found = hub["online"]["text"]
    assert found["class_names"] == ["9", "10", "emu"]
    assert _by_sample(found, "test") == {"test/0": 0, "test/1": 2}


def test_label_column__chooses(hub):
    found = hub["online"]["coarse"]
    assert found["class_names"] == ["small", "big"]
    assert _by_sample(found, "train").items() <= {f"train/{row}": int(label == 2) for row, label in enumerate(TRAIN)}.items()


def test_group_column__keeps_images_of_one_value_together(hub):
    tables = hub["online"]["patients"]["tables"]
    assert tables["test"]["groups"] == ["9"] * 5 + ["0"]
    train, validation = (set(tables[split]["groups"]) for split in ("train", "validation"))
    assert train | validation == {"0", "1", "2", "3"} and len(validation) == 1 and not train & validation
    patient = dict(zip(tables["train"]["sample_ids"], tables["train"]["groups"], strict=True))
    assert all(group == str(int(name.split("/")[1]) // 3) for name, group in patient.items())


def test_default_configuration__is_the_one_the_card_names(hub):
    for results in (hub["online"], hub["offline"]):
        assert results["with_default"]["tables"] == hub["online"]["large"]["tables"]


def test_unlabelled_test_split__is_left_out(hub):
    assert hub["online"]["hidden_test"]["error"].startswith(
        "evaluation.splits: asked for test, and the source brings no such split."
    )
    assert {name.split("/")[0] for name in _by_sample(hub["online"]["held out"], "test")} == {"train"}


@pytest.mark.parametrize(
    ("name", "commit"),
    [
        ("plain", "ann/plain"),
        ("branch", "v1"),
        ("commit", "v1"),
        ("Class-Folders", "ann/Class-Folders"),
        ("large", "ann/configurations"),
        ("converted script", "converted"),
    ],
)
def test_revision__is_the_commit_that_was_read(hub, name, commit):
    assert hub["online"][name]["revision"] == hub["commits"][commit]


MISSING = (
    "data.source: no data set '{}' was found on the Hub, and no folder of that name exists here. "
    "Check the spelling; for a private one log in with 'hf auth login'."
)
SCRIPT = (
    "data.source: ann/script consists of a Python script, and code from the Hub is never run. Name a copy that holds images "
    "or parquet files; where the Hub has made one, set data.revision to 'refs/convert/parquet'."
)
MESSAGES = {
    "two_labels": "data.label_column: expected exactly one label column to infer it, found 2 (fine, coarse) among image, fine, "
    "coarse; name the one to use",
    "misspelt label": "data.label_column: no label column 'fien' (did you mean 'fine'?); found image, fine, coarse",
    "no_label": "data.label_column: expected exactly one label column to infer it, found 0 (none) among image, breed; "
    "name the one to use",
    "multi_label": "data.label_column: expected one label an image in 'label', found a column of type List; "
    "set data.task to 'multi_label' where an image may show several classes",
    "unknown_patient": "data.group_column: 1 of 12 images of the train split have no value in 'patient'",
    "nameless_group": "data.group_column: 1 of 12 images of the train split have no value in 'place'",
    "misspelt group": "data.group_column: no column 'patiant' (did you mean 'patient'?); found image, label, patient, boxes",
    "group that is the label": "data.group_column: expected a column that says which images belong together, found the labels",
    "group that is many": "data.group_column: expected one value an image in 'boxes', found a column of type List",
    "holes": "data.label_column: 1 of 12 images of the train split have no label in 'label'",
    "two_images": "data.image_column: expected exactly one image column to infer it, found 2 (a, b) among a, b, label; "
    "name the one to use",
    "image that is none": "data.image_column: 'label' holds no images; image columns: a, b",
    "configurations": "data.config_name: ann/configurations has 2 configurations (small, large); name the one to use",
    "unknown configuration": "data.config_name: ann/configurations has no configuration 'larg' (did you mean 'large'?); "
    "found small, large",
    "two_validations": "data.source: ann/two_validations has two splits for validation: validation and dev; expected one, such "
    "as a configuration (data.config_name) may bring",
    "other_split": "data.source: expected a split called train, validation or test in ann/other_split; found unsupervised",
    "unknown revision": "data.revision: ann/plain has no revision 'v2'",
    "unknown": MISSING.format("ann/plane"),
    "private": MISSING.format("ann/private"),
    "a reader of datasets": MISSING.format("imagefolder"),
    "gated": "data.source: ann/gated is gated: accept its terms on its Hub page, then log in with 'hf auth login'",
    "no id": "data.source: 'my data' is neither a local folder nor a Hub id (OWNER/NAME)",
    "script": SCRIPT,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message__says_what_was_expected(hub, name):
    assert hub["online"][name]["error"] == MESSAGES[name]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("words", "data.source: expected images, parquet or other data files in ann/words, found none at commit "),
        ("torn", "data.source: ann/torn could not be loaded: Parquet magic bytes not found in footer."),
        ("torn_card", "data.source: the front matter of ann/torn_card's README.md cannot be read: "),
    ],
    ids=["words", "torn", "torn_card"],
)
def test_message__of_a_damaged_repository(hub, name, start):
    assert hub["online"][name]["error"].startswith(start)


def test_script__is_not_run(hub):
    assert not hub["marker"].exists()


@pytest.mark.parametrize(
    "name", ["plain", "branch", "commit", "Class-Folders", "small", "large", "with_default", "configurations"]
)
def test_offline__a_warm_cache_gives_the_same(hub, name):
    """Of several revisions and configurations in the cache, the one that is asked for."""
    offline, online = hub["offline"][name], hub["online"][name]
    assert offline["offline"] and not online["offline"]
    assert [offline[key] for key in online.keys() - {"offline", "seconds"}] == [
        online[key] for key in online.keys() - {"offline", "seconds"}
    ]


@pytest.mark.parametrize(
    ("name", "what", "at"),
    [("not in the cache", "ann/plane", ""), ("revision not in the cache", "ann/plain", " at revision 'v2'")],
)
def test_offline__a_cold_cache_is_told(hub, name, what, at):
    assert hub["offline"][name]["error"] == (
        f"data.source: {what} is neither a local folder nor in the cache ({hub['home']}/datasets){at}, and the Hub "
        f"({hub['url']}) cannot be reached or HF_HUB_OFFLINE is set. To work offline: run this recipe, or 'hf-transfer check "
        "--data RECIPE', once with a connection; or give a folder of class folders; or use package:textile."
    )


@pytest.mark.parametrize("name", ["several", "several numbers"])
def test_several_labels__lists_of_a_column(hub, name):
    found = hub["online"][name]
    assert found["class_names"] == (CLASSES if name == "several" else ["0", "1", "2"])
    assert _by_sample(found, "test") == {"test/0": [False, True, True], "test/1": [False, False, False]}
    shown = _by_sample(found, "train") | _by_sample(found, "validation")
    assert shown["train/0"] == [label in (0, TRAIN[0]) for label in range(3)]
