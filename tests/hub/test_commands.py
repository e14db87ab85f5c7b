"""Commands that read a model from the Hub, through the real client and a loopback Hub."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).resolve().parent


def _module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


loopback_hub, client, repositories = _module("loopback_hub"), _module("client"), _module("repositories")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What predict and explain said of two photographs with a model of the Hub, and predict with its files in a folder."""
    folder = tmp_path_factory.mktemp("commands")
    repositories.write_tokens(folder / "hub")
    repositories.write_vit(folder / "hub/models/ann/vit")
    (folder / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    commands = {
        "predict": ["predict", "ann/vit", "photos", "--json"],
        "explain": ["explain", "ann/vit", "photos", "--output", "maps"],
        "missing": ["predict", "ann/nothing", "photos"],
        "local": ["predict", "hub/models/ann/vit", "photos", "--json"],
    }
    with loopback_hub.LoopbackHub(folder / "hub") as server:
        environment = client.client_environment(server.url, folder / "home")
        done = {name: client.run_command(environment, words, folder) for name, words in commands.items()}
    return folder, done


def test_predict__a_model_of_the_hub_says_what_its_files_say(answers):
    _, done = answers
    assert done["predict"].returncode == 0, done["predict"].stderr
    found, local = (json.loads(done[name].stdout)["predictions"] for name in ("predict", "local"))
    assert [row["file"] for row in found] == ["photos/0.png", "photos/1.png"]
    assert found == local


def test_explain__a_model_of_the_hub(answers):
    folder, done = answers
    assert done["explain"].returncode == 0, done["explain"].stderr
    with (folder / "maps" / "explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    predicted = [row["class"] for row in json.loads(done["predict"].stdout)["predictions"]]
    assert [row["predicted"] for row in rows] == predicted
    assert all((folder / "maps" / row["picture"]).is_file() for row in rows)


def test_predict__a_model_that_is_not_there(answers):
    done = answers[1]["missing"]
    assert done.returncode == 2
    assert "ann/nothing" in done.stderr and "Traceback" not in done.stderr
