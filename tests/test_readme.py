"""What the README says exists, exists; the commands it shows are commands."""

import re
import shlex
from pathlib import Path

import pytest

from hf_transfer.cli import _parse, _parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.+?)```", README, re.S)


PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCS = [block for path in PAGES for block in re.findall(r"```bash\n(.+?)```", path.read_text(encoding="utf-8"), re.S)]


def commands(blocks=BLOCKS):
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({part.strip() for line in lines for part in line.split("&&") if part.strip()})


def test_readme__the_two_commands():
    marked = dict(re.findall(r"<!-- command: (\w+) -->\n```bash\n(.+?)\n```", README, re.S))
    assert marked == {
        "quickstart": 'pip install -e ".[demo]" && accelerate launch hf_transfer/run.py recipes/quickstart.json',
        "test": 'pip install -e ".[demo,test]" && pytest',
    }


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("hf-transfer")])
def test_readme__hf_transfer_commands_parse(command):
    options = _parse(_parser(), shlex.split(command)[1:])
    for path in [*getattr(options, "recipes", []), getattr(options, "recipe", None)]:
        assert path is None or (ROOT / path).is_file()


@pytest.mark.parametrize("command", [c for c in commands(DOCS) if c.startswith("hf-transfer")])
def test_docs__hf_transfer_commands_parse(command):
    options = _parse(_parser(), shlex.split(command)[1:])
    recipe = getattr(options, "recipe", None)
    assert recipe is None or (ROOT / recipe).is_file()


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(("accelerate", "python"))])
def test_readme__paths_in_commands_exist(command):
    for word in shlex.split(command):
        if word.endswith((".py", ".json")):
            assert (ROOT / word).exists(), word


def test_readme__every_recipe_has_its_row():
    rows = re.findall(r"^\| ([\w-]+) \| `hf-transfer run (recipes/\S+?\.json)", README, re.M)
    files = [path for path in (ROOT / "recipes").rglob("*.json") if not path.stem.endswith("schema")]
    recipes = [path for path in files if path.parent.name not in ("studies", "examples")]
    assert sorted(rows) == sorted((path.stem, path.relative_to(ROOT).as_posix()) for path in recipes)


def test_readme__every_study_has_its_row():
    rows = re.findall(r"^\| (\w+) \| `hf-transfer study (recipes/studies/\S+?\.json)", README, re.M)
    studies = (ROOT / "recipes/studies").glob("*.json")
    assert sorted(rows) == sorted((path.stem, path.relative_to(ROOT).as_posix()) for path in studies)


def test_readme__the_tree_is_the_tree():
    tree = re.search(r"```\nhf_transfer/\n(.+?)```", README, re.S).group(1)
    named = {name.rstrip("/") for name in re.findall(r"^  (\w[\w.]*/?)", tree, re.M)}
    package = ROOT / "hf_transfer"
    present = {path.name for path in package.iterdir() if not path.name.startswith("__") and path.name != "py.typed"}
    assert named | {"run.py"} == present
    for name in re.findall(r"^(\w+)/", tree, re.M):
        assert (ROOT / name).is_dir(), name


def test_readme__nothing_is_left_to_fill_in():
    assert not re.search(r"QUICKSTART_|TODO|TBD", README)
