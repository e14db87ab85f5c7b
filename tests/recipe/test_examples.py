"""Each example recipe is a recipe, and reads a source of the kind that it names: real files under the names it gives them."""

import csv
import gzip
import json
import re
import struct
from pathlib import Path

import client
import datasets
import loopback_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import repositories
from loopback_files import LoopbackFiles
from shard_files import jpeg, write_tar

from hf_transfer.data.build import build_splits
from hf_transfer.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "recipes" / "examples").glob("*.json"))
NAMES = [path.stem for path in FILES]
ADDRESS = "https://data.example.org"
COUNT = 30  # images of each source, of three classes by turns
CLASSES = ["cat", "dog", "emu"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})


def example(name):
    return load_recipe(ROOT / "recipes" / "examples" / f"{name}.json")


def label(number):
    return CLASSES[number % 3]


def write_folders(root, name="{number}.jpg"):
    for number in range(COUNT):
        file = root / label(number) / name.format(number=number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))


def write_images(root):
    """Write images into a folder; return their names there."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        (root / f"{number}.jpg").write_bytes(jpeg(number))
    return [f"{number}.jpg" for number in range(COUNT)]


def write_csv(file, **columns):
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def table(numbers):
    return pa.table({"image": [jpeg(number) for number in numbers], "label": [label(number) for number in numbers]})


def write_tars(root):
    for shard in range(4):
        members = [
            member
            for number in range(shard, COUNT, 4)
            for member in ((f"{number:04}.jpg", jpeg(number)), (f"{number:04}.cls", label(number)))
        ]
        write_tar(root / f"train-{shard:03}.tar", members)


LABELS = [label(number) for number in range(COUNT)]


def class_folders(root, _):
    write_folders(root / "photos")
    (root / "photos" / "cat" / "0.jpg").write_bytes(b"")


def metadata(root, _):
    write_csv(root / "survey" / "metadata.csv", file_name=write_images(root / "survey"), species=LABELS)


def csv_addresses(root, server):
    names = write_images(root / "server" / "photos")
    write_csv(root / "observations.csv", photo_url=[f"{server.url}/photos/{name}" for name in names], species=LABELS)


def parquet(root, _):
    (root / "shards").mkdir()
    for split, numbers in (("train", range(24)), ("test", range(24, COUNT))):
        pq.write_table(table(numbers), root / "shards" / f"{split}-00000-of-00001.parquet")


def arrow(root, _):
    content = table(range(COUNT))
    with pa.ipc.new_file(str(root / "export.arrow"), content.schema) as out:
        out.write_table(content)


def tars(root, _):
    write_tars(root / "tars")


def tars_remote(root, _):
    write_tars(root / "server" / "birds")


def saved_dataset(root, _):
    parts = {"train": range(24), "test": range(24, COUNT)}
    columns = {
        split: {"image": [{"bytes": jpeg(n), "path": None} for n in numbers], "label": [n % 3 for n in numbers]}
        for split, numbers in parts.items()
    }
    found = {split: datasets.Dataset.from_dict(rows, features=FEATURES) for split, rows in columns.items()}
    datasets.DatasetDict(found).save_to_disk(str(root / "saved"))


def idx(root, _):
    (root / "mnist").mkdir()
    for part, count in (("train", 24), ("t10k", 6)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images = struct.pack(">2x2B3I", 8, 3, *pixels.shape) + pixels.tobytes()
        labels = struct.pack(">2x2BI", 8, 1, count) + bytes(number % 3 for number in range(count))
        (root / "mnist" / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (root / "mnist" / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


def groups(root, _):
    names = [f"images/{name}" for name in write_images(root / "images")]
    write_csv(root / "scans.csv", file_name=names, finding=LABELS, patient=[f"p{number // 2}" for number in range(COUNT)])


def groups_by_path(root, _):
    for number in range(COUNT):
        file = root / "scans" / label(number) / f"patient_{number // 2}_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number))


def multi_label(root, _):
    names = write_images(root / "images")
    tags = [sorted({label(number), label(number + number // 3)}) for number in range(COUNT)]
    lines = [json.dumps({"file_name": f"images/{name}", "tags": found}) for name, found in zip(names, tags, strict=True)]
    (root / "tags.jsonl").write_text("\n".join(lines))


def plain_folders(root, _):
    write_folders(root / "photos")


def nothing(root, _):
    pass


SOURCES = {
    "class_folders": class_folders,
    "metadata": metadata,
    "csv_addresses": csv_addresses,
    "parquet": parquet,
    "arrow": arrow,
    "tars": tars,
    "tars_remote": tars_remote,
    "saved_dataset": saved_dataset,
    "idx": idx,
    "package": nothing,
    "groups": groups,
    "groups_by_path": groups_by_path,
    "multi_label": multi_label,
    "streaming": tars_remote,
    "weighted_sampling": plain_folders,
    "resized_cache": plain_folders,
}
OF_THE_HUB = ("hub", "hub_private")


def test_examples__each_is_read_by_a_test():
    assert sorted([*SOURCES, *OF_THE_HUB]) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples__says_what_it_is(name):
    raw = json.loads((ROOT / "recipes" / "examples" / f"{name}.json").read_text(encoding="utf-8"))
    assert raw["$schema"] == "../schema.json"
    assert len(raw["description"]) > 30
    assert example(name).output_dir == f"runs/{name}"


def test_examples__have_their_rows_in_the_docs():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\.\./recipes/examples/\1\.json\) \|", page, re.M)) == sorted(NAMES)


@pytest.mark.parametrize("name", SOURCES)
def test_examples__reads_its_source(name, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    section = example(name).data
    with LoopbackFiles(tmp_path / "server") as server:
        SOURCES[name](tmp_path, server)
        section = section.model_copy(update={"source": section.source.replace(ADDRESS, server.url)})
        splits = build_splits(section, ["train", "validation", "test"], training=True)
        found = {split: [table.encoded(index) for index in range(len(table))] for split, table in splits.tables.items()}
    if name == "package":
        assert {split: len(images) for split, images in found.items()} == {"train": 1200, "validation": 400, "test": 400}
        return
    skipped = sum(map(len, splits.skipped.values()))
    assert sum(map(len, found.values())) + skipped == COUNT
    assert skipped == (name == "class_folders")
    assert all(found.values())
    if name == "idx":
        assert splits.class_names == ["0", "1", "2"]
        return
    assert splits.class_names == CLASSES
    number = {jpeg(number): number for number in range(COUNT)}
    for split, images in found.items():
        table = splits.tables[split]
        if name == "multi_label":
            shown = [{CLASSES[c] for c in np.flatnonzero(row)} for row in table.labels]
            assert shown == [{label(number[image]), label(number[image] + number[image] // 3)} for image in images]
        else:
            assert [CLASSES[c] for c in table.labels] == [label(number[image]) for image in images]
    if name.startswith("groups"):
        parts = [set(table.groups.tolist()) for table in splits.tables.values()]
        assert sum(map(len, parts)) == len(set.union(*parts)) == COUNT // 2


def test_examples__of_the_hub(tmp_path):
    hub = tmp_path / "hub"
    public, private = example("hub").data, example("hub_private").data
    fine = {
        "img": datasets.Image(),
        "fine_label": FEATURES["label"],
        "coarse_label": datasets.ClassLabel(names=["small", "big"]),
    }
    numbers = {"train": range(24), "test": range(6)}
    columns = {split: {"fine_label": [n % 3 for n in ns], "coarse_label": [n % 2 for n in ns]} for split, ns in numbers.items()}
    repository = hub / "datasets" / public.source
    repositories.write_parquet(repository / public.config_name, fine, columns)
    files = "\n".join(f"  - split: {split}\n    path: {public.config_name}/{split}-*" for split in numbers)
    repositories.write_card(repository, f"configs:\n- config_name: {public.config_name}\n  data_files:\n{files}")
    closed = hub / "datasets" / private.source
    repositories.write_parquet(closed / "data", FEATURES, {"train": {"label": [n % 3 for n in range(COUNT)]}})
    repositories.write_access(closed, private=True)
    repositories.write_tokens(hub)
    jobs = {
        name: {"job": "splits", "data": section.model_dump(mode="json")}
        for name, section in (("hub", public), ("hub_private", private))
    }
    with loopback_hub.LoopbackHub(hub) as server:
        environment = client.client_environment(server.url, tmp_path / "home", token=repositories.TOKEN)
        found = client.run_jobs(environment, jobs, tmp_path)
        nobody = client.run_jobs(client.client_environment(server.url, tmp_path / "other"), jobs, tmp_path)
    sizes = {name: {split: len(part["labels"]) for split, part in result["tables"].items()} for name, result in found.items()}
    assert sizes == {
        "hub": {"train": 19, "validation": 5, "test": 6},
        "hub_private": {"train": 18, "validation": 6, "test": 6},
    }
    assert all(result["class_names"] == CLASSES for result in found.values())
    assert "tables" in nobody["hub"]
    assert f"'{private.source}'" in nobody["hub_private"]["error"] and "log in" in nobody["hub_private"]["error"]
