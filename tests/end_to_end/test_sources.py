"""One recipe, and the same images in every form that a source may have."""

import gzip
import io
import json
import struct

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_transfer.cli import main
from hf_transfer.evaluation.predictions import Predictions

CLASSES = ["9", "10"]
COUNT = 40


@pytest.fixture(scope="module")
def images():
    """Gray images of 12 x 12, dark ones and light ones by turns, and the number of each one's class."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2
    return (rng.integers(0, 120, (COUNT, 12, 12)) + 130 * labels[:, None, None]).astype(np.uint8), labels


@pytest.fixture(scope="module")
def encoded(images):
    """The bytes of each image as a PGM file."""
    found = []
    for pixels in images[0]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PPM")
        found.append(buffer.getvalue())
    return found


@pytest.fixture
def source(tmp_path, images, encoded):
    """Write the images in one of the forms; return what `data.source` says then."""
    pixels, labels = images
    names = [CLASSES[label] for label in labels]

    def folder(kind):
        for row, content in enumerate(encoded):
            (tmp_path / f"{row:02}.pgm").write_bytes(content)
        lines = [f"{row:02}.pgm,{name}" for row, name in enumerate(names)]
        file = tmp_path / ("metadata.csv" if kind == "metadata" else "all.csv")
        file.write_text("\n".join(["file_name,label", *lines]))
        return tmp_path if kind == "metadata" else file

    def columnar(kind):
        table = pa.table({"image": encoded, "label": names})
        if kind == "parquet":
            pq.write_table(table, tmp_path / "all.parquet")
            return f"{tmp_path}/*.parquet"
        with pa.ipc.new_file(str(tmp_path / "all.arrow"), table.schema) as out:
            out.write_table(table)
        return tmp_path

    def saved(_):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
        rows = {"image": [{"bytes": one, "path": None} for one in encoded], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    def idx(_):
        head = struct.pack(">2x2B3I", 8, 3, *pixels.shape)
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels.tobytes()))
        values = np.array([int(name) for name in names], dtype=np.uint8)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2x2BI", 8, 1, COUNT) + values.tobytes())
        return tmp_path

    writers = {"metadata": folder, "csv": folder, "parquet": columnar, "arrow": columnar, "saved": saved, "idx": idx}
    return lambda kind: str(writers[kind](kind))


@pytest.mark.parametrize("kind", ["metadata", "csv", "parquet", "arrow", "saved", "idx"])
def test_run__on_each_kind_of_source(tmp_path, source, kind, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "kept")
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "data": {"source": source(kind), "test_fraction": 0.3},
        "model": {"backbone": "scratch:lenet"},
        "training": {"max_steps": 2, "per_device_train_batch_size": 8, "disable_tqdm": True},
        "evaluation": {"speed": False},
    }
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert main(["run", str(tmp_path / "recipe.json")]) == 0
    predictions = Predictions.read(tmp_path / "run" / "predictions" / "test.parquet")
    assert predictions.class_names == CLASSES
    assert np.bincount(predictions.labels).tolist() == [6, 6]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["n"] == 12


def test_run__a_mistake_is_one_message_and_status_2(tmp_path, source, capsys):
    place = source("metadata")
    (tmp_path / "metadata.csv").write_text("file_name,label\n../secret.pgm,9\n00.pgm,10\n")
    recipe = {"output_dir": str(tmp_path / "run"), "data": {"source": place}, "model": {"backbone": "scratch:lenet"}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    assert main(["run", str(tmp_path / "recipe.json")]) == 2
    said = capsys.readouterr().err
    assert "line 2: '../secret.pgm' leaves the folder" in said
    assert "Traceback" not in said
