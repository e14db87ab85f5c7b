import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_transfer.cli import main

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    ResNetForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    return str(directory)


def test_demo__exports_a_space(model, tmp_path, capsys):
    assert main(["demo", model, "--export", str(tmp_path / "space")]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'space'}: a Space, ready to be pushed (hf upload OWNER/NAME {tmp_path / 'space'} --repo-type space)\n"
    )
    assert {path.name for path in (tmp_path / "space").iterdir()} == {"README.md", "app.py", "model", "requirements.txt"}
    assert main(["demo", model, "--export", str(tmp_path / "space")]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_demo__mistakes(model, capsys):
    assert main(["demo", model, "--top-k", "0"]) == 2
    assert capsys.readouterr().err == "error: --top-k: expected 1 or more, found 0\n"
    assert main(["demo", model, "--port", "99999", "--top-k", "0"]) == 2
    assert capsys.readouterr().err == (
        "error: --top-k: expected 1 or more, found 0\n--port: expected a number from 1 to 65535, found 99999\n"
    )
    assert main(["demo", "./nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: model.backbone: expected a directory with a config.json")


def test_demo__space_that_cannot_be_written_is_told_before_the_model_is_looked_for(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "./nowhere", "--export", str(tmp_path / "file" / "space")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --export: {tmp_path / 'file'} is a file, so ")


@pytest.mark.slow
def test_demo__serves_until_interrupted(model):
    command = [sys.executable, "-m", "hf_transfer.cli", "demo", model]
    environment = {**os.environ, "GRADIO_SHARE": "True", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        try:
            line = process.stdout.readline()
            address = re.fullmatch(r"tiny: (http://127\.0\.0\.1:\d+/) \(stop with Ctrl-C\)\n", line)[1]
            with urllib.request.urlopen(f"{address}config", timeout=20) as answer:
                assert json.load(answer)["title"] == "tiny"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
