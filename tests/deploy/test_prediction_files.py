import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hf_transfer.deploy.predict import Prediction, Unreadable
from hf_transfer.deploy.prediction_files import check_output, json_rows, prediction_file
from hf_transfer.errors import UserError

NAMES = ["ant", 'bee, "wild"', "çà"]
ROWS = [
    Prediction("photos/a,b.png", ("çà", "ant"), (0.75, 0.2), np.array([0.5, -1.25, 2.0], np.float32)),
    Unreadable("photos/broken.png", "the file is empty"),
    Prediction("c.png", ('bee, "wild"', "çà"), (0.9, 0.1), np.array([0.1, 3.0, -2.0], np.float32)),
]
AS_JSON = [
    {
        "file": "photos/a,b.png",
        "class": "çà",
        "probability": 0.75,
        "top": [{"class": "çà", "probability": 0.75}, {"class": "ant", "probability": 0.2}],
    },
    {
        "file": "c.png",
        "class": 'bee, "wild"',
        "probability": 0.9,
        "top": [{"class": 'bee, "wild"', "probability": 0.9}, {"class": "çà", "probability": 0.1}],
    },
]


def written(path, rows=ROWS, **arguments):
    with prediction_file(path, NAMES, 2, **arguments) as write:
        for row in rows:
            write(row)
        assert not path.exists()  # it appears when it is whole
    return path


def test_prediction_file__csv(tmp_path):
    with written(tmp_path / "p.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "class", "probability", "class_2", "probability_2"],
            ["photos/a,b.png", "çà", "0.75", "ant", "0.2"],
            ["c.png", 'bee, "wild"', "0.9", "çà", "0.1"],
        ]
    with written(tmp_path / "with_logits.csv", logits=True).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [np.float32(rows[1][f"logit {name}"]) for name in NAMES] == ROWS[2].logits.tolist()


def test_prediction_file__json(tmp_path):
    told = {"predictions": AS_JSON, "unreadable": [{"file": "photos/broken.png", "reason": "the file is empty"}]}
    assert json.loads(written(tmp_path / "p.json").read_text(encoding="utf-8")) == told
    rows = json.loads(written(tmp_path / "l.json", logits=True).read_text(encoding="utf-8"))["predictions"]
    assert rows[0] == AS_JSON[0] | {"logits": [0.5, -1.25, 2.0]}


def test_prediction_file__json_lines(tmp_path):
    lines = written(tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == AS_JSON


def test_prediction_file__parquet_in_several_groups(tmp_path):
    path = written(tmp_path / "p.parquet", rows=ROWS * 600, logits=True)
    assert pq.ParquetFile(path).num_row_groups == 2
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[b"class_names"]) == NAMES
    assert len(table) == 1200
    assert table.slice(1, 1).to_pylist() == [
        {
            "file": "c.png",
            "class": 'bee, "wild"',
            "probability": 0.9,
            "classes": ['bee, "wild"', "çà"],
            "probabilities": [0.9, 0.1],
            "logits": ROWS[2].logits.tolist(),
        }
    ]
    assert "logits" not in pq.read_table(written(tmp_path / "bare.parquet")).column_names


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_prediction_file__without_any_prediction(tmp_path, suffix):
    path = written(tmp_path / f"p{suffix}", rows=ROWS[1:2])
    assert path.exists()
    if suffix == ".parquet":
        assert len(pq.read_table(path)) == 0
    elif suffix == ".json":
        assert json.loads(path.read_text(encoding="utf-8"))["predictions"] == []


def test_prediction_file__interrupted_leaves_the_old_one(tmp_path):
    (tmp_path / "p.csv").write_text("old")

    def interrupted():
        with prediction_file(tmp_path / "p.csv", NAMES, 2) as write:
            write(ROWS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    assert (tmp_path / "p.csv").read_text() == "old"


def test_prediction_file__place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^--output: cannot write {tmp_path}/file/p.csv: "):
        written(tmp_path / "file" / "p.csv")


def test_json_rows__stream():
    stream = io.StringIO()
    with json_rows(stream) as write:
        write(ROWS[0])
        assert '"photos/a,b.png"' in stream.getvalue()  # at once, not at the end
    assert json.loads(stream.getvalue()) == {"predictions": AS_JSON[:1], "unreadable": []}


def test_check_output__what_would_be_lost_or_is_unknown(tmp_path):
    there = tmp_path / "p.csv"
    there.write_text("")
    (tmp_path / "d.json").mkdir()
    check_output(tmp_path / "new.JSONL", overwrite=False)
    check_output(there, overwrite=True)
    for path, overwrite, told in (
        (there, False, f"{there} exists; choose another name, or replace it with --overwrite"),
        (tmp_path / "d.json", True, f"{tmp_path / 'd.json'} is a folder; expected the name of a file"),
        (tmp_path / "p.txt", True, f"expected a file that ends in .csv, .json, .jsonl, .parquet; found {tmp_path / 'p.txt'}"),
    ):
        with pytest.raises(UserError) as error:
            check_output(path, overwrite=overwrite)
        assert str(error.value) == f"--output: {told}"


SEVERAL = [
    Prediction(
        "a.png", ("çà", "ant"), (0.75, 0.2), np.array([0.5, -1.25, 2.0], np.float32), {"ant": 0.2, "b": 0.01, "çà": 0.75}
    ),
    Prediction("b.png", (), (), np.array([-3.0, -1.25, -2.0], np.float32), {"ant": 0.1, "b": 0.2, "çà": 0.05}),
]
LABELS, THRESHOLDS = ["ant", "b", "çà"], [0.15, 0.5, 0.5]


def labels_written(path, **arguments):
    with prediction_file(path, LABELS, 1, thresholds=THRESHOLDS, **arguments) as write:
        for row in SEVERAL:
            write(row)
    return path


def test_prediction_file__labels_as_csv_are_a_data_set(tmp_path):
    from hf_transfer.data.sources.source import read_source
    from hf_transfer.recipe.schema import Data

    path = labels_written(tmp_path / "labels.csv", logits=True)
    with path.open(encoding="utf-8", newline="") as file:
        header, first, second = csv.reader(file)
    assert header == ["file", "classes", *(f"probability {n}" for n in LABELS), *(f"logit {n}" for n in LABELS)]
    assert first == ["a.png", "çà|ant", "0.2", "0.01", "0.75", "0.5", "-1.25", "2.0"]
    assert second[:3] == ["b.png", "|", "0.1"]
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    section = Data(source=str(path), image_column="file", label_column="classes", task="multi_label")
    found = read_source(section)
    assert found.tables["train"].labels.tolist() == [[True, True], [False, False]] and found.class_names == ["ant", "çà"]


def test_prediction_file__labels_whose_names_hold_the_bar(tmp_path):
    row = Prediction("a.png", ("x|y", "z"), (0.9, 0.8), np.zeros(2, np.float32), {"x|y": 0.9, "z": 0.8})
    with prediction_file(tmp_path / "p.csv", ["x|y", "z"], 1, thresholds=[0.5, 0.5]) as write:
        write(row)
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "a.png,x|y;z,0.9,0.8"


def test_prediction_file__labels_as_json_and_parquet(tmp_path):
    first, second = json.loads(labels_written(tmp_path / "p.json").read_text(encoding="utf-8"))["predictions"]
    assert first == {
        "file": "a.png",
        "classes": [{"class": "çà", "probability": 0.75}, {"class": "ant", "probability": 0.2}],
        "probabilities": {"ant": 0.2, "b": 0.01, "çà": 0.75},
    }
    assert second["classes"] == [] and second["probabilities"]["b"] == 0.2
    lines = labels_written(tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [first, second]
    table = pq.read_table(labels_written(tmp_path / "p.parquet"))
    assert json.loads(table.schema.metadata[b"thresholds"]) == THRESHOLDS
    assert table.to_pylist()[1] == {"file": "b.png", "classes": [], "probabilities": [], "every_probability": [0.1, 0.2, 0.05]}
    assert table.column_names == ["file", "classes", "probabilities", "every_probability"]
