"""Shards on a web server are streamed: each image once an epoch over all processes, and a killed run goes on exactly."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from loopback_files import LoopbackFiles
from PIL import Image
from safetensors.torch import load_file

DRIVER = "tests/end_to_end/streamed_run.py"
ROOT = Path(__file__).resolve().parents[2]
SHARDS = {"train-000": 31, "train-001": 18, "train-002": 33, "train-003": 19, "validation-000": 12, "test-000": 12}
TRAIN = 101


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Tars of random images, every one different, of three classes."""
    root = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for name, count in SHARDS.items():
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for number in range(count):
                picture = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(picture, "png")
                for suffix, content in (("png", picture.getvalue()), ("cls", str(number % 3).encode())):
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    with LoopbackFiles(root) as server:
        yield server


@pytest.fixture
def carry_out(shards, recipe, checkpoints, launch, tmp_path):
    """Train on the streamed shards; return the process, and the notes of each rank."""

    def run(name, *options, processes=1, workers=2, stop_after=-1, **training):
        path = recipe(
            output_dir=str(tmp_path / name),
            data={
                "source": shards.url + "/{train-{000..003},validation-000,test-000}.tar",
                "streaming": True,
                "shuffle_buffer": 40,
                **dict.fromkeys(("test_fraction", "max_train_samples", "max_validation_samples", "max_test_samples")),
            },
            model={"backbone": str(checkpoints / "vit")},
            augment={"preset": "none"},
            evaluation={"splits": ["test"]},
            training={"per_device_train_batch_size": 4, "dataloader_num_workers": workers, "bf16": False, **training},
        )
        launcher = []
        if processes > 1:
            config = str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")
            launcher = ["-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "STOP_AFTER": str(stop_after)}
        done = launch(*launcher, DRIVER, str(tmp_path / f"{name} notes"), path, *options, env=environment)
        notes = {
            file.stem: [json.loads(line) for line in file.read_text().splitlines()]
            for file in sorted((tmp_path / f"{name} notes").iterdir())
        }
        return done, notes

    return run


def test_streaming__three_processes_see_every_image_once_an_epoch(carry_out, tmp_path):
    done, notes = carry_out("run", processes=3, num_train_epochs=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(notes) == ["0", "1", "2"]
    assert {len(batches) for batches in notes.values()} == {2 * 9}  # 101 images, 12 a step; 5 are left for the ninth
    orders = []
    for epoch in (0, 1):
        batches = [batch for of_rank in notes.values() for batch in of_rank if batch["epoch"] == epoch]
        seen = [image for batch in batches for image in batch["images"]]
        assert len(seen) == TRAIN
        assert set(Counter(seen).values()) == {1}
        orders.append(seen)
    assert set(orders[0]) == set(orders[1])
    assert orders[0] != orders[1]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]["n"] == 12


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.resume), 2])
def test_streaming__a_killed_run_goes_on_with_the_images_that_it_had_not_seen(carry_out, tmp_path, workers):
    saving = {"num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 10, "save_steps": 10}
    whole, notes = carry_out("whole", workers=workers, **saving)
    assert whole.returncode == 0, whole.stderr[-3000:]
    killed, _ = carry_out("killed", workers=workers, stop_after=37, **saving)
    assert killed.returncode == -9
    other, _ = carry_out("killed", "--resume", processes=2, workers=workers, **saving)
    assert "whose steps are those of 1 process; found 2. Resume with as many." in other.stderr
    resumed, parts = carry_out("killed", "--resume", workers=workers, **saving)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    # The steps after the last checkpoint are taken again, and then the rest: the same images in the same order.
    assert parts["0"][:37] == notes["0"][:37]
    assert parts["0"][37:] == notes["0"][30:]
    found, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert all((found[key] == expected[key]).all() for key in expected)
