import pytest

from hf_transfer.report.licences import LICENCES, Licence, hub_licence

PAGE = "https://huggingface.co/ann/vit"


@pytest.mark.parametrize("identifier", sorted(set(LICENCES) - {"unknown", "other"}))
def test_hub_licence__each_identifier_and_its_full_name(identifier):
    assert hub_licence(identifier, page=PAGE) == Licence(identifier)
    assert hub_licence(LICENCES[identifier], page=PAGE) == Licence(identifier)


@pytest.mark.parametrize(
    ("text", "identifier"),
    [
        ("Apache 2.0", "apache-2.0"),
        ("Apache-2.0", "apache-2.0"),
        ("apache2", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        (" The MIT License\n", "mit"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("BSD 3-Clause License", "bsd-3-clause"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC_BY_SA_4.0", "cc-by-sa-4.0"),
        ("cc0", "cc0-1.0"),
        ("GPLv3", "gpl-3.0"),
        ("GPL-3.0-only", "gpl-3.0"),
        ("Llama 3.1", "llama3.1"),
    ],
)
def test_hub_licence__common_spellings(text, identifier):
    assert hub_licence(text) == Licence(identifier)


@pytest.mark.parametrize("text", [None, "", " ", "unknown", "Unknown", "NOASSERTION", 3, ["mit"]])
def test_hub_licence__not_known(text):
    assert hub_licence(text, page=PAGE) is None


@pytest.mark.parametrize(
    ("text", "name", "link"),
    [
        ("dinov3-license", "dinov3-license", PAGE),
        ("GPL-3.0-or-later", "gpl-3.0-or-later", PAGE),
        ("My licence: <b>\n---\nof 2026!", "my-licence-b-of-2026", PAGE),
        ("other", "license-of-the-backbone", PAGE),
        ("\ud800", "license-of-the-backbone", PAGE),
        ("https://example.org/terms/model-licence/", "model-licence", "https://example.org/terms/model-licence/"),
        ("https://x.y/a><script>", "https-x.y-a-script", PAGE),
    ],
)
def test_hub_licence__not_in_the_list_of_the_hub(text, name, link):
    assert hub_licence(text, page=PAGE) == Licence("other", name, link)


def test_hub_licence__long_text_gives_a_short_name():
    found = hub_licence("Permission is hereby granted, free of charge, " * 40)
    assert found.identifier == "other"
    assert len(found.name) <= 64
    assert found.link is None
