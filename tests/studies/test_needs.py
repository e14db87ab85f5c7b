"""Every model and data set of a study is named once, and fetched as a run would load it."""

import repositories

from hf_transfer.recipe import parse_recipe
from hf_transfer.studies.needs import Fetched, fetch, needs_of


def _recipe(backbone, **changed):
    return parse_recipe(
        {
            "output_dir": "run",
            "data": {"source": "package:digits", "test_fraction": 0.2},
            "model": {"backbone": backbone},
            **changed,
        }
    )


def test_needs_of__each_once_and_further_test_sets_too():
    recipes = [
        _recipe("a/b", seed=0),
        _recipe("a/b", seed=1, strategy="linear_probe"),
        _recipe("a/b", mode="evaluate"),
        _recipe("c/d", data={"source": "e/f", "config_name": "g", "revision": "h"}, evaluation={"extra": {"later": "e/i"}}),
    ]
    needs = needs_of(recipes)
    assert [(need.name, need.as_it_is) for need in needs] == [
        ("a/b", False),
        ("a/b", True),
        ("c/d", False),
        ("package:digits", False),
        ("e/f", False),
        ("e/i", False),
    ]
    assert (needs[4].what.config_name, needs[4].what.revision) == ("g", "h")
    assert (needs[5].what.config_name, needs[5].what.revision) == (None, None)


def test_fetch__says_what_is_there_and_what_is_not(tmp_path):
    repositories.write_vit(tmp_path / "vit")
    (tmp_path / "empty").mkdir()
    found = list(fetch(needs_of([_recipe(str(tmp_path / "vit")), _recipe(str(tmp_path / "empty"))])))
    assert found == [
        Fetched(str(tmp_path / "vit"), "model", "0.0 million parameters", ""),
        Fetched(
            str(tmp_path / "empty"),
            "model",
            "",
            f"model.backbone: expected a config.json in {tmp_path / 'empty'} (or in its model/), found none",
        ),
        Fetched("package:digits", "data", "train 1,797 images", ""),
    ]
