import json

import pytest

from hf_transfer.report.findings import Findings
from hf_transfer.report.saved_run import SavedRun


def test_read__losses_pairs_and_their_images(make_run):
    found = Findings.read(SavedRun.read(make_run()), "test")
    assert found.split == "test"
    assert len(found.losses) == 24
    assert all(pair.label != pair.predicted for pair in found.pairs)
    shown = {e.sample_id for e in found.losses} | {e.sample_id for pair in found.pairs for e in pair.examples}
    assert found.images.keys() == shown


@pytest.mark.parametrize("data", [None, "a text", {"source": "package:digits", "a_key_of_tomorrow": 1}])
def test_read__images_have_paths_even_where_the_recipe_says_nothing(make_run, data):
    run_dir = make_run()
    recipe = json.loads((run_dir / "recipe.json").read_text()) | {"data": data}
    (run_dir / "recipe.json").write_text(json.dumps(recipe))
    assert len(Findings.read(SavedRun.read(run_dir), "test").images) >= 24
