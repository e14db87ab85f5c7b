import pytest
from markdown_it import MarkdownIt

from hf_transfer.report.markdown import code, code_block, escape, paragraph, table

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b",
    "a \\| b",
    "`code` ``more``",
    "*bold* _em_ __x__ snake_case ~~gone~~",
    "[text](http://x.y) ![image](x.png)",
    "http://x.y www.x.y a@b.c <http://x.y>",
    "&lt;b&gt; & &amp;",
    "# heading",
    "1. item",
    "001.ak47",
    "- item",
    "> quote",
    "---",
    "| --- |",
    "$a^2$",
    "trailing backslash \\",
]


def rendered():
    return MarkdownIt("gfm-like", {"linkify": False, "html": True})


def inline_text(token):
    return "".join(child.content for child in token.children if child.type in ("text", "code_inline", "text_special"))


@pytest.mark.parametrize("text", HOSTILE)
def test_escape__shows_just_the_text_in_a_table(text):
    tokens = rendered().parse(table(["Class", "Code", "n"], [[escape(text), code(text), "1"]]))
    cells = [token for token in tokens if token.type == "inline"][3:]
    assert len(cells) == 3
    assert [inline_text(cell) for cell in cells] == [text, text, "1"]
    kinds = {child.type for cell in cells for child in cell.children}
    assert kinds <= {"text", "code_inline", "text_special"}


@pytest.mark.parametrize("text", HOSTILE)
def test_paragraph__shows_just_the_text(text):
    tokens = rendered().parse(paragraph(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert inline_text(tokens[1]) == text
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}


def test_escape__harmless_names_stay_readable():
    assert escape("001.ak47 snake_case (2)") == "001.ak47 snake_case (2)"


def test_code_block__text_cannot_end_it():
    tokens = rendered().parse(code_block("a\n```\n<b>\n````", "json"))
    assert [(token.type, token.info, token.content) for token in tokens] == [("fence", "json", "a\n```\n<b>\n````\n")]
