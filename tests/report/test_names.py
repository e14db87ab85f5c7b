import pytest

from hf_transfer.report.names import display_width, plain, shorten, shown_names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\n lines\tand\x00 more", "two lines and more"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
        ("a\u202eb", "ab"),
        ("", "(empty)"),
        (7, "7"),
        ("花", "花"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == shown


def test_shorten__wide_characters_take_two_columns():
    assert shorten("花" * 10, 9) == "花花花花…"
    assert display_width(shorten("花" * 10, 9)) == 9


def test_shorten__what_fits_is_kept():
    assert shorten("exactly10!", 10) == "exactly10!"


def test_shown_names__equal_beginnings_are_cut_in_the_middle():
    shown = shown_names(["American Staffordshire terrier 1", "American Staffordshire terrier 2", "cat"], 16)
    assert len(set(shown)) == 3
    assert shown[0].endswith("terrier 1") or shown[0].endswith("rier 1")
    assert all(display_width(name) <= 16 for name in shown)
    assert shown[2] == "cat"
