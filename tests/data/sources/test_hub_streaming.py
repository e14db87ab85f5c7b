"""Data sets of the Hub read while training, through the real client: the samples of loaded ones, and no copies."""

import client
import loopback_hub
import pytest
import repositories
from datasets import ClassLabel, Image
from shard_files import samples, write_tar

LABEL = ClassLabel(names=repositories.CLASSES)
TRAIN, TEST = [0, 1, 2] * 4, [2, 1, 0] * 2
VALIDATION_CARD = """configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: dev
    path: data/test-*"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What each job gave, the requests of those that stream, and the folder that would hold copies."""
    folder = tmp_path_factory.mktemp("streaming")
    root, home = folder / "hub", folder / "home"
    repositories.write_tokens(root)
    sets = root / "datasets" / "ann"
    labels = {"train": {"label": TRAIN}, "test": {"label": TEST}}
    for name in ("plain", "named"):
        repositories.write_parquet(sets / name / "data", {"image": Image(), "label": LABEL}, labels)
    repositories.write_access(sets / "plain", private=True)
    repositories.write_card(sets / "named", VALIDATION_CARD)
    write_tar(sets / "tars" / "train-000.tar", samples(range(12)))
    write_tar(sets / "tars" / "test-000.tar", samples(range(12, 18)))
    repositories.write_card(sets / "tars", "license: mit")
    for row, picture in enumerate(repositories.pictures(4, 0)):
        path = sets / "folders" / "train" / repositories.CLASSES[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)

    def load(name, **data):
        return {"job": "splits", "data": {"source": f"ann/{name}", "test_fraction": 0.25, **data}}

    with loopback_hub.LoopbackHub(root) as server:
        environment = client.client_environment(server.url, home, repositories.TOKEN)
        jobs = {name: load(name, streaming=True) for name in ("plain", "named", "tars", "folders")}
        jobs["address"] = {"job": "splits", "data": {"source": "hf://datasets/ann/plain/data/*.parquet", "streaming": True}}
        streamed = client.run_jobs(environment, jobs, folder)
        copies = [path for path in home.glob("**/*.parquet") if "indexes" not in path.parts] + list(home.glob("**/*.tar"))
        loaded = client.run_jobs(environment, {name: load(name) for name in ("plain", "named")}, folder)
        commits = {name: server.commit("datasets", f"ann/{name}") for name in ("plain", "named", "tars")}
    return {"streamed": streamed, "loaded": loaded, "copies": copies, "commits": commits}


@pytest.mark.parametrize("name", ["plain", "named"])
def test_parquet__streamed_and_loaded_are_the_same(hub, name):
    streamed, loaded = hub["streamed"][name], hub["loaded"][name]
    assert streamed["tables"] == loaded["tables"]  # ids, labels, splits and the images' bytes
    assert streamed["class_names"] == repositories.CLASSES
    assert streamed["revision"] == hub["commits"][name]
    assert hub["copies"] == []


def test_tars__are_streamed(hub):
    found = hub["streamed"]["tars"]
    assert found["class_names"] == ["0", "1", "2"]
    assert found["tables"]["test"]["sample_ids"] == [f"test-000.tar:{number:04}" for number in range(12, 18)]
    assert found["revision"] == hub["commits"]["tars"]


def test_address__of_a_private_data_set(hub):
    assert hub["streamed"]["address"]["tables"]["test"] == hub["loaded"]["plain"]["tables"]["test"]


def test_class_folders__cannot_be_streamed(hub):
    assert hub["streamed"]["folders"]["error"].startswith(
        "data.streaming: ann/folders, whose files are .png, cannot be streamed; expected tar or Parquet files"
    )
