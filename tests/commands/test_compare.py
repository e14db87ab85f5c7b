"""`hf-transfer compare`: from a folder of images to a plan, a study that can be edited, and a verdict."""

import json

import numpy as np
import pytest
import repositories
from PIL import Image

from hf_transfer.cli import main

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """60 noisy images of three colours, and two tiny networks, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(generator.normal(colour, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    repositories.write_vit(tmp_path / "one", seed=1)
    repositories.write_vit(tmp_path / "two", seed=2)
    return tmp_path


BOTH = ["--backbone", "one", "--backbone", "two"]


def test_compare__plan_study_verdict_and_going_on(folder, capsys):
    words = ["compare", "photos", *BOTH, "--budget", "2m"]
    assert main([*words, "--backbone", "three", "--dry-run", "--json"]) == 0
    said = capsys.readouterr()
    assert "left out: three: model.backbone: " in said.err
    told = json.loads(said.out)
    assert told["plan"]["probed"] == ["one", "two"] and told["plan"]["finetune_top"] >= 1
    assert told["study"]["base"]["data"] == {"source": "photos", "test_fraction": 0.2}
    assert told["measured"]["one"]["latency_ms"] > 0
    assert not (folder / "runs").exists()

    # What is planned depends on how fast the machine is just now; a short plan is carried out here.
    root = folder / "runs/compare_photos"
    root.mkdir(parents=True)
    study = told["study"] | {"description": " ".join(["hf-transfer", *words[:2], *words[-2:], *BOTH])}
    study["axes"]["seed"] = [0]
    study["overrides"] = [{"when": {"strategy": "full"}, "set": {"training.num_train_epochs": 1}}]
    study["funnel"]["finetune_top"] = 1
    (root / "compare.json").write_text(json.dumps(study))
    (root / "study.json").write_text(json.dumps(study))
    assert main(words) == 0
    said = capsys.readouterr()
    assert f"going on with the plan in {root.relative_to(folder) / 'compare.json'}" in said.err
    assert "5 of 6 cells are done, 1 were left out by the funnel" in said.out
    board = json.loads((root / "leaderboard.json").read_text())
    assert {row["strategy"] for row in board["tables"][0]["rows"].values()} == {"linear_probe", "knn", "full"}
    ranking = json.loads((root / "funnel.json").read_text())["ranking"]
    assert [row["goes_on"] for row in ranking] == [True, False]

    assert main([*words, "--dry-run"]) == 2
    assert "there is a plan already; 'hf-transfer study runs/compare_photos/compare.json --dry-run'" in capsys.readouterr().err
    assert main([*words, "--trials", "12"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: --output: runs/compare_photos holds another comparison (hf-transfer compare photos --budget 2m --backbone one "
        "--backbone two); nothing was touched. Go on with that one by 'hf-transfer study runs/compare_photos/compare.json', or "
        "choose another --output."
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "soon"], "--budget: expected a time such as 90s, 20m or 1h30m; found 'soon'"),
        (["--max-latency", "fast"], "--max-latency: expected a time such as 20ms; found 'fast'"),
        (
            ["--output", "one"],
            "--output: one is there already and holds no comparison; nothing was touched. Choose another one.",
        ),
        (["--sizes", "smal"], "sizes: expected some of tiny, small, base, large, found 'smal' (did you mean 'small'?)"),
        (
            ["--backbone", "one", "--max-latency", "0.0001ms"],
            "compare: none of 1 backbones can be compared: all are too slow",
        ),
        (["--trials", "1"], "--trials: expected 2 to 1000, or 0 for no search; found 1"),
        (["--limit", "0"], "--limit: expected at least 1, found 0"),
        (
            ["--backbone", "one", "--commercial"],
            "--commercial chooses from the shortlist, and --backbone replaces it; leave one of them out",
        ),
        (
            ["--output", "photos/out"],
            "--output: photos/out lies in the folder of the images, where every folder is a class; choose another one",
        ),
        (
            ["training.num_train_epochs=3"],
            "compare: expected overrides of the data section, such as data.label_column=label; "
            "found training.num_train_epochs=3",
        ),
    ],
)
def test_compare__mistakes_are_told_and_nothing_is_written(folder, capsys, words, message):
    assert main(["compare", "photos", *words]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"error: {message}"
    assert not (folder / "runs").exists()
