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
