"""A card is written anew when a run has more to tell, and never over what somebody has written into it."""

import json

import pytest

from hf_transfer.report.card_seal import is_unedited, seal_of, sealed
from hf_transfer.report.model_card import model_card_text, refresh_model_card, write_model_card

QUANTIZE = {"mode": "dynamic", "size_mb": {"float": 4.0, "int8": 1.0}}


def test_sealed__any_edit_shows():
    card = sealed("# A card\n\nWords.\n")
    assert card.startswith("# A card\n\nWords.\n\n<!--") and is_unedited(card) and is_unedited(card.rstrip())
    assert seal_of(card) == seal_of(sealed("# A card\n\nWords.\n")) != seal_of(sealed("# A card\n"))
    for edited in (card.replace("Words", "My words"), f"My card\n{card}", f"{card}\nMy words.", "# A card\n", ""):
        assert not is_unedited(edited)
    assert seal_of("# A card\n") is None


@pytest.fixture
def run(make_run):
    run = make_run()
    write_model_card(run)
    return run


def _quantize(run):
    (run / "quantized").mkdir()
    (run / "quantized/quantize.json").write_text(json.dumps(QUANTIZE))


def test_refresh_model_card__tells_of_what_is_new(run):
    _quantize(run)
    assert refresh_model_card(run)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "## Quantized copy" in card and is_unedited(card)


def test_refresh_model_card__an_edited_card_stays(run):
    card = run / "README.md"
    edited = card.read_text(encoding="utf-8").replace("## Limits", "## My limits")
    card.write_text(edited, encoding="utf-8")
    assert refresh_model_card(run)  # it tells all there is
    _quantize(run)
    assert not refresh_model_card(run)
    assert card.read_text(encoding="utf-8") == edited


def test_refresh_model_card__of_another_version(run):
    (run / "README.md").write_text(sealed("# What an older version wrote\n"), encoding="utf-8")
    assert refresh_model_card(run)
    assert (run / "README.md").read_text(encoding="utf-8") == model_card_text(run)
