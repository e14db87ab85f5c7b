import json
import subprocess
import sys

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


def test_run_main__overrides_before_and_after_options(tmp_path, capsys):
    assert run_main([str(tmp_path / "r.json"), "seed=1", "--overwrite", "seed=2"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_run_main__resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        run_main(["r.json", "--resume", "--overwrite"])
    assert stop.value.code == 2


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
