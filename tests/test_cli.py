import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_transfer.cli import main, run_main


def test_help__imports_neither_torch_nor_pydantic():
    script = (
        "import sys\n"
        "from hf_transfer.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "check", "recipes", "evaluate"):
        assert f"    {command}" in done.stdout


def test_check__imports_neither_torch_nor_transformers():
    script = (
        "import sys\n"
        "from hf_transfer.cli import main\n"
        "assert main(['check', 'recipes/quickstart.json']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "recipes/quickstart.json: ok\n"


def test_recipes__lists_them_with_descriptions(capsys):
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "recipes/quickstart.json" in out
    assert "schema.json" not in out


def test_recipes__no_such_folder(capsys):
    assert main(["recipes", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: no such folder: nowhere\n"


@pytest.mark.parametrize("words", [["run", "r.json", "--resum"], ["run", "r.json", "no-override", "--overwrite", "x"]])
def test_main__unknown_words_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--nonsense"])
    assert stop.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_main__no_message_repeats_an_access_token(capsys):
    token = "hf_" + "aB" * 17
    with pytest.raises(SystemExit):
        main(["run", "r.json", "--token", token])
    assert main(["recipes", token]) == 2
    assert token not in capsys.readouterr().err


def test_run_main__overrides_before_and_after_options(tmp_path, capsys):
    assert run_main([str(tmp_path / "r.json"), "seed=1", "--overwrite", "seed=2"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_run_main__resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(["r.json", "--resume", "--overwrite"])
    assert stop.value.code == 2


@pytest.fixture
def small_recipe(tmp_path):
    """Write a recipe of a small network: `small_recipe(**data)`, returns its path."""

    def write(source, **sections):
        raw = {"data": {"source": str(source)}, "model": {"backbone": "timm:test_resnet"}, **sections}
        path = tmp_path / "small.json"
        path.write_text(json.dumps(raw), encoding="utf-8")
        return str(path)

    return write


def test_check__layers(small_recipe, capsys):
    path = small_recipe("package:digits")
    assert main(["check", "--layers", path]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == (
        f"{path}: 6 layer groups, 373,658 parameters\n"
        "  group              parameters    share\n"
        "  stem                    7,472    2.0 %\n"
        "  timm_model.layer1      18,560    5.0 %\n"
        "  timm_model.layer2      36,384    9.7 %\n"
        "  timm_model.layer3      42,432   11.4 %\n"
        "  timm_model.layer4     267,840   71.7 %\n"
        "  head                      970    0.3 %\n"
        "  phase 1, 'full': 373,658 parameters train (stem, timm_model.layer1, timm_model.layer2, timm_model.layer3, "
        "timm_model.layer4, head)\n"
        f"{path}: ok\n"
    )


def test_check__layers_as_json(small_recipe, capsys):
    path = small_recipe("package:digits")
    assert main(["check", "--layers", "--json", path, "nowhere.json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["nowhere.json"] == {"problems": ["no such file"], "layers": [], "phases": [], "notes": []}
    assert told[path]["problems"] == told[path]["notes"] == []
    assert told[path]["layers"] == [
        {"group": "stem", "parameters": 7472},
        {"group": "timm_model.layer1", "parameters": 18560},
        {"group": "timm_model.layer2", "parameters": 36384},
        {"group": "timm_model.layer3", "parameters": 42432},
        {"group": "timm_model.layer4", "parameters": 267840},
        {"group": "head", "parameters": 970},
    ]
    assert [(phase["phase"], phase["parameters"]) for phase in told[path]["phases"]] == [("full", 373658)]


def test_check__phases_with_what_trains_in_each(small_recipe, capsys):
    strategy = {"name": "complete", "stages": 3, "phase_epochs": 2, "frozen_batch_norm": True}
    assert main(["check", "--layers", small_recipe("package:digits", strategy=strategy)]) == 0
    body = "timm_model.layer1 x 0.4, timm_model.layer2 x 0.4, timm_model.layer3 x 0.4, timm_model.layer4 x 0.4, head"
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("  phase")] == [
        "  phase 1, 'head', at most 2 epochs: 970 parameters train (head)",
        f"  phase 2, '2 stages', at most 2 epochs: 364,234 parameters train ({body})",
        f"  phase 3, '3 stages', at most 2 epochs: 371,578 parameters train (stem x 0.3, {body})",
    ]


@pytest.mark.parametrize(
    ("strategy", "phases"),
    [
        ("two_phase", ["phase 1, 'head, on features': 970 ", "phase 2, 'full': 373,658 "]),
        ("norm_only", ["phase 1, 'norm_only': 3,050 "]),
        ("lora", ["phase 1, 'lora': 49,314 "]),
        ("knn", []),
    ],
)
def test_check__phases_of_other_strategies(small_recipe, capsys, strategy, phases):
    assert main(["check", "--layers", small_recipe("package:digits", strategy=strategy)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  phase")]
    assert len(lines) == len(phases)
    for line, phase in zip(lines, phases, strict=True):
        assert line.startswith(f"{phase}parameters train")


def test_check__layers_find_what_does_not_fit_the_network(small_recipe, capsys):
    path = small_recipe("package:digits", strategy={"name": "partial", "frozen_groups": 6})
    assert main(["check", "--layers", path]) == 2
    assert capsys.readouterr().err == (
        "error: Found 1 problem in the recipe:\n"
        "  - strategy.frozen_groups: expected at most 5, since the model has 6 layer groups; found 6\n"
    )


@pytest.mark.parametrize(
    ("source", "note"),
    [
        ("owner/images", "'owner/images' is no folder here, and a Hub data set is read with --data only"),
        ("./nowhere", "data.source: no such folder: ./nowhere"),
    ],
)
def test_check__layers_without_the_data(small_recipe, capsys, source, note):
    path = small_recipe(source)
    assert main(["check", "--layers", path]) == 0
    first, second, *_, head, _, last = capsys.readouterr().out.splitlines()
    assert (first, last) == (f"{path}: 6 layer groups, 372,882 parameters", f"{path}: ok")
    assert second == f"{path}: note: the head is that of 2 classes: {note}"
    assert head.split() == ["head", "194", "0.1", "%"]


def test_check__layers_beside_the_data(small_recipe, capsys):
    path = small_recipe("package:digits", evaluation={"splits": ["validation"]})
    assert main(["check", "--data", "--layers", path]) == 0
    first, second, *_, head, _, last = capsys.readouterr().out.splitlines()
    assert first == f"{path}: 10 classes; images: train 1438, validation 359"
    assert (second, last) == (f"{path}: 6 layer groups, 373,658 parameters", f"{path}: ok")
    assert head.split() == ["head", "970", "0.3", "%"]


def test_check__layers_of_an_unknown_backbone(small_recipe, capsys):
    path = small_recipe("package:digits", model={"backbone": "timm:test_resnt"})
    assert main(["check", "--layers", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (f"error: {path}: model.backbone: timm has no model 'test_resnt' (did you mean 'test_resnet'?)\n")


def test_check__layers_reads_no_weights(small_recipe, capsys):
    path = small_recipe("package:digits", model={"backbone": "torchvision:squeezenet1_1"})  # its weights are not here
    assert main(["check", "--layers", path]) == 0
    *_, head, _, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["head", "5,130", "0.7", "%"]
    assert last == f"{path}: ok"


def test_check__layers_of_an_evaluation(small_recipe, capsys, tmp_path):
    """The head is the checkpoint's own."""
    from hf_transfer.backbones.build import build_backbone
    from hf_transfer.recipe.schema import Model

    section = Model(backbone="timm:test_resnet", pretrained=False)
    build_backbone(section, ["cat", "dog", "owl"], 0).save(tmp_path / "model")
    path = small_recipe("package:digits", mode="evaluate", model={"backbone": str(tmp_path / "model")})
    assert main(["check", "--layers", path]) == 0
    *_, head, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["head", "291", "0.1", "%"]
    assert last == f"{path}: ok"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Two spaces in a cache of their own; return their keys."""
    import numpy as np
    import torch

    from hf_transfer.features.space import FeatureSpace
    from hf_transfer.features.store import FeatureStore

    monkeypatch.setenv("HF_TRANSFER_CACHE", str(tmp_path))
    keys = []
    for name in ("timm:a", "timm:b"):
        space = FeatureSpace(name, {"dtype": "float32", "weights": name})
        FeatureStore().folder(space).write(np.array([b"0123456789abcdef"], dtype="S16"), torch.ones(1, 4))
        keys.append(space.key)
    return keys


def test_features__list_and_clear(stored, capsys, tmp_path):
    assert main(["features", "list"]) == 0
    out = capsys.readouterr().out
    assert all(key[:12] in out for key in stored)
    assert "timm:a  float32           1 features" in out
    assert main(["features", "clear", stored[0][:8]]) == 0
    assert capsys.readouterr().out == f"removed 1 of 2 from {tmp_path / 'features'}\n"
    assert main(["features", "list", "--json"]) == 0
    assert [space["key"] for space in json.loads(capsys.readouterr().out)] == [stored[1]]
    assert main(["features", "clear", "--all"]) == 0
    assert not list((tmp_path / "features").iterdir())


@pytest.mark.parametrize("words", [[], ["--all", "x"]])
def test_features__clear_wants_keys_or_all(stored, capsys, words):
    assert main(["features", "clear", *words]) == 2
    expected = "error: features clear: expected keys ('hf-transfer features list' shows them), or --all\n"
    assert capsys.readouterr().err == expected


def test_features__clear_an_unknown_key(stored, capsys):
    assert main(["features", "clear", stored[0], "nothing"]) == 2
    assert capsys.readouterr().err == (
        "error: features clear: expected the beginning of exactly one key each; nothing was removed: 'nothing' (found 0)\n"
    )
    assert main(["features", "list"]) == 0
    assert stored[0][:12] in capsys.readouterr().out


def test_main__output_that_nobody_reads_any_more():
    recipes = Path(__file__).resolve().parents[1] / "recipes"
    command = f"sleep 0.5; {sys.executable} -m hf_transfer.cli recipes {recipes} --json; echo status $? >&2"
    done = subprocess.run(["sh", "-c", f"({command}) | true"], capture_output=True, text=True, check=False)
    assert done.stderr == "status 1\n"


def test_check_and_recipes__know_studies(capsys, tmp_path):
    assert main(["check", "recipes/studies/textile_lite.json"]) == 0
    assert capsys.readouterr().out == "recipes/studies/textile_lite.json: ok\n"
    broken = tmp_path / "broken.json"
    base = {"data": {"source": "package:digits"}, "model": {"backbone": "timm:resnet18"}}
    broken.write_text(json.dumps({"base": base, "axes": {"strategy": ["full"], "sed": [1]}}))
    assert main(["check", str(broken)]) == 2
    assert (
        "sed: is not a key of the recipe (did you mean 'seed'?) [in the cell strategy=full, sed=1]" in capsys.readouterr().err
    )
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert "recipes/studies/textile_lite.json  " in out and "schema.json" not in out
