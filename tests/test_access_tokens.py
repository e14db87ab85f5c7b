"""Access tokens are recognised wherever they stand."""

import pytest

from hf_transfer.access_tokens import holds_token, without_tokens

TOKEN = "hf_" + "aB3" * 11 + "x"


@pytest.mark.parametrize(
    "text", [TOKEN, f"HF_TOKEN={TOKEN}", f"https://ann:{TOKEN}@hub/x", f'{{"token": "{TOKEN}"}}', f"({TOKEN})"]
)
def test_without_tokens__nothing_of_it_is_left(text):
    assert holds_token(text)
    cleaned = without_tokens(text)
    assert "aB3" not in cleaned and "(removed)" in cleaned and not holds_token(cleaned)


@pytest.mark.parametrize(
    "text", ["hf_transfer", "hf_transfer/deploy/hub.py", "hf_hub_download", "hf_efficientnetlite0textile", ""]
)
def test_holds_token__other_words(text):
    assert not holds_token(text)
    assert without_tokens(text) == text
