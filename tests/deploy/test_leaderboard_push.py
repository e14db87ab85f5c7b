"""What of a study is published, and under which names; tests/hub pushes it."""

import csv
import io
import json

import pytest
import small_study
from huggingface_hub.utils import validate_repo_id

from hf_transfer.cli import main
from hf_transfer.deploy.hub import Destination
from hf_transfer.deploy.leaderboard_push import CARD, finished_leaderboard, holds_runs, leaderboard_content, model_name
from hf_transfer.errors import UserError
from hf_transfer.studies.study import cells, load_study

TOKEN = "hf_" + "aB" * 17


@pytest.fixture
def study(tmp_path):
    return small_study.write_study(tmp_path / "study")


def content(root, **destination):
    return leaderboard_content(root, finished_leaderboard(root), "ann/small", Destination("ann/small", **destination))


RUNS = {f"runs/resnet{layers}-{seed}/{name}.json" for layers in (18, 50) for seed in (0, 1) for name in ("recipe", "metrics")}


def test_leaderboard_content__results_and_no_weights(study):
    (study / "cells/resnet18-0/model").mkdir()
    (study / "cells/resnet18-0/model/model.safetensors").write_bytes(b"weights")
    assert set(content(study)) == {"README.md", "leaderboard.csv", "leaderboard.json", "study.json", *RUNS}


def test_leaderboard_content__the_rows_and_their_models(study):
    small_study.publish(study / "cells/resnet50-1", "ann/b")
    found = content(study)
    rows = list(csv.DictReader(io.StringIO(found["leaderboard.csv"].decode())))
    assert [(row["name"], row["leader"], row["models"]) for row in rows] == [
        ("resnet50", "True", "ann/b"),
        ("resnet18", "False", ""),
    ]
    told = json.loads(found["leaderboard.json"])
    (table,) = told["tables"]
    assert table["rows"]["resnet50"]["runs"] == ["runs/resnet50-0", "runs/resnet50-1"]
    assert table["verdict"]["cost"] == "parameters"  # as the study says
    assert {place: model["repo_id"] for place, model in told["models"].items()} == {"runs/resnet50-1": "ann/b"}


def test_leaderboard_content__the_study_can_be_carried_out(study, tmp_path):
    (tmp_path / "again.json").write_bytes(content(study)["study.json"])
    again = load_study(tmp_path / "again.json")
    assert [cell.values for cell in cells(again)][:2] == [
        {"model.backbone": "timm:resnet18", "seed": 0},
        {"model.backbone": "timm:resnet18", "seed": 1},
    ]


def test_leaderboard_content__nothing_of_the_machine(tmp_path):
    source = {"source": "/home/ann/my photos/cats"}
    study = small_study.write_study(tmp_path / "study", description=f"Ask {TOKEN} at /home/ann/notes", base={"data": source})
    recipe = study / "cells/resnet18-0/recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"data": source, "output_dir": "/home/ann/x", "note": TOKEN}))
    texts = {name: text.decode() for name, text in content(study).items()}
    assert [name for name, text in texts.items() if TOKEN in text or "/home/ann" in text or str(tmp_path) in text] == []
    assert json.loads(texts["study.json"])["base"] == {"data": {"source": "cats"}}


def test_leaderboard_content__the_report_goes_along_unless_it_tells_too_much(study, capsys, monkeypatch):
    monkeypatch.setenv("HOME", "/ann")
    (study / "report.html").write_text("<html><img src='data:image/png;base64,AAAA/ann/AAAA='></html>")
    assert content(study)["report.html"] == study / "report.html"
    assert "report.html" not in content(study, images=False)
    recipe = study / "cells/resnet18-0/recipe.json"
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"hub": {"images": False}}))
    assert "report.html" not in content(study)  # the recipe keeps the images of its data at home
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"hub": {}}))
    assert "report.html" in content(study)
    for place in (f"{study.resolve()}/cells", "/ann/notes"):
        (study / "report.html").write_text(f"<html>{place}</html>")
        capsys.readouterr()
        assert "report.html" not in content(study)
        assert capsys.readouterr().err == f"{study / 'report.html'} names folders of this machine: it is not published\n"


def test_leaderboard_content__an_edited_card_stays_as_it_is(study, capsys):
    first = content(study)["README.md"]
    assert (study / CARD).read_bytes() == first
    small_study.publish(study / "cells/resnet50-1", "ann/b")
    second = content(study)["README.md"]
    assert b"ann/b" in second and (study / CARD).read_bytes() == second
    (study / CARD).write_text("---\nlicense: mit\n---\n# My words\n")
    assert content(study)["README.md"] == b"---\nlicense: mit\n---\n# My words\n"
    assert capsys.readouterr().err == (
        f"{study / CARD} was edited: it is published as it is. To have it written anew, delete it and push again\n"
    )
    (study / CARD).write_text("---\nlicense: beer\n---\n# My words\n")
    with pytest.raises(UserError, match=r"the Hub would refuse the metadata of .*; nothing was pushed:\n  - license"):
        content(study)


def test_holds_runs__a_folder_of_runs_and_nothing_else(study, tmp_path):
    assert holds_runs(study) and holds_runs(study / "cells")
    assert not holds_runs(study / "cells/resnet18-0")
    (tmp_path / "empty").mkdir()
    assert not holds_runs(tmp_path / "empty") and not holds_runs(tmp_path / "nothing")


def test_push_command__nothing_finished(study, capsys):
    for card in study.glob("cells/*/README.md"):
        card.unlink()
    assert main(["push", str(study)]) == 2
    assert capsys.readouterr().err == (
        f"error: push: no run below {study} is finished and scored a test split, so there is no leaderboard to publish; found "
        "cells/resnet18-0 (not finished), cells/resnet18-1 (not finished), cells/resnet50-0 (not finished), cells/resnet50-1 "
        "(not finished)\n"
    )
    assert not (study / "hub.json").exists()


def test_push_command__with_models_is_for_studies(study, capsys):
    assert main(["push", str(study / "cells/resnet18-0"), "--with-models"]) == 2
    assert capsys.readouterr().err == (
        "error: push: --with-models publishes the models of a study; RUN is a run, whose model is published anyway\n"
    )


@pytest.mark.parametrize(
    ("run", "name"),
    [("lite0-probe-0-c9b5e123", "textile-lite0-probe-0-c9b5e123"), ("mine/first try", "textile-mine-first-try")],
)
def test_model_name__of_study_and_run(run, name):
    assert model_name("textile", run) == name


def test_model_name__differs_where_runs_differ():
    runs = [f"{'x' * 100}{place}" for place in range(3)] + ["\u65e5\u672c", "\u672c\u65e5"]
    names = {model_name("textile", run) for run in runs}
    assert len(names) == len(runs)
    for name in names:
        validate_repo_id(f"ann/{name}")
