"""What a run directory says of its own training; what a repository says is tried in tests/hub/test_commands.py."""

import json
import subprocess
import sys

import pytest

from hf_transfer.recipe.trained_run import trained_run

RECIPE = {
    "schema_version": 1,
    "mode": "train",
    "data": {"source": "ann/cats"},
    "evaluation": {"splits": ["validation", "test"]},
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def run(tmp_path):
    def write(recipe, environment=None):
        (tmp_path / "recipe.json").write_text(recipe if isinstance(recipe, str) else json.dumps(recipe))
        if environment is not None:
            (tmp_path / "environment.json").write_text(json.dumps(environment))
        return trained_run(str(tmp_path))

    return write


def test_trained_run__tells_data_splits_and_fingerprint(run):
    found = run(RECIPE, {"data_fingerprint": "abc", "data_hub_id": None, "data_revision": None})
    assert (found.data.source, found.data.revision, found.splits) == ("ann/cats", None, ("validation", "test"))
    assert found.fingerprint == "abc"
    assert found.is_readable
    assert run(RECIPE, []).fingerprint is None


@pytest.mark.parametrize("revision", [None, "main"])
def test_trained_run__a_hub_data_set_is_pinned_to_the_commit_that_was_read(run, revision):
    recipe = {**RECIPE, "data": {"source": "ann/cats", "revision": revision}}
    assert run(recipe, {"data_hub_id": "ann/cats", "data_revision": COMMIT}).data.revision == COMMIT
    for other in ({"data_hub_id": "ann/dogs", "data_revision": COMMIT}, {"data_hub_id": "ann/cats", "data_revision": ["main"]}):
        assert run(recipe, other).data.revision == revision


@pytest.mark.parametrize(
    "recipe",
    [
        "{",
        "[]",
        "[" * 100_000,
        "null",
        {**RECIPE, "mode": "evaluate"},
        {**RECIPE, "schema_version": 2},
        {**RECIPE, "data": "ann/cats"},
        {**RECIPE, "data": {"source": "ann/cats", "of_tomorrow": 1}},
        {**RECIPE, "evaluation": {"splits": None}},
        {"mode": "train"},
    ],
    ids=range(10),
)
def test_trained_run__what_is_no_recipe_of_this_format_tells_nothing(run, recipe):
    assert run(recipe) is None


@pytest.mark.parametrize("name", ["timm:resnet18", "package:digits", "my model", "./gone/away", "~nosuch/run", "a\0b", "gpt2"])
def test_trained_run__names_that_are_no_hub_id_ask_nobody(name):
    assert trained_run(name) is None


def test_trained_run__imports_neither_torch_nor_the_hubs_client():
    code = "import sys, hf_transfer.recipe.trained_run; print([m for m in ('torch', 'huggingface_hub') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
