"""Any label survives every format that shows it, and no two share a file."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.cbook
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bench.common import labels

SPECIAL = "|$\\_*`[]<>&#%^~{}'\"/:;,.!?@=+- \t\n\r\x00\x1b\x7f\u2028\u202e\u200f\u200d\ufeffé提案手法мдعسלא😀𝔘"
CHOSEN = (
    "", " ", "A+", "A-", "a/b", "a b", "a  b", "a, b", "a,b", "a_b", "A", "..", ".hidden", "-rf", "提案手法",
    "従来手法", "$x$", "a\\", "\\|", "`|`", "# title", "1. first", "- item", "<b>bold</b>", "&amp;", "[x](y)",
    "\x1b[31mred", "שלום", "مرحبا 3", "x" * 300, "提" * 300, "patch 4, 2 blocks", "50 %", "a & b \\\\ c", "{", "}",
    "--", "``x''", "L1|L2 loss", "café", "α → β", "⟨x⟩", "a_0123456789", "a 0123456789",
)  # fmt: skip
LABELS = (
    st.sampled_from(CHOSEN)
    | st.text(st.sampled_from(SPECIAL), max_size=40)
    | st.text(max_size=60)
    | st.text(st.characters(), min_size=250, max_size=300)
)
ISOLATES = str.maketrans("", "", labels.ISOLATE.format(""))


def text_of_cells(source: str) -> list[list[str]]:
    """The plain text of each row's cells, as a GFM parser reads a table."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            assert rows, "no table"
            children = token.children or []
            assert all(child.type in ("text", "text_special") for child in children), children
            rows[-1].append("".join(child.content for child in children).translate(ISOLATES))
    return rows


class TextOf(html.parser.HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()
        self.feed(source)
        self.close()

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


LATEX_TOKEN = re.compile(
    r"\\ifdefined\\Umathcode (?:[^\\{}$&#%^~]|\\allowbreak\{\})*"
    r"\\else\\texttt\{(?:U\+[0-9A-F]+(?:(?:\\allowbreak\{\})?\\,)?)+\}\\fi\{\}|\\allowbreak\{\}"
    r"|\\[`'^~=.\"urHvc]\{[A-Za-z]\}|\\[{}$&#_%]|\\text[a-z]+\{\}|\\(?:char34|ldots)\{\}|\$(?:\^?\\[A-Za-z]+|\\\||\^2|-)\$"
    r"|\{(?:'|\[|\]|\*|--|---)\}|-\{\}|[A-Za-z0-9 .,:;!?@=+/()]"
)


@settings(max_examples=2500, deadline=None)
@given(LABELS)
def test_every_format(label: str) -> None:
    visible = labels.plain(label)
    assert visible.isprintable() or any(joiner in visible for joiner in labels.JOINERS)
    assert text_of_cells(f"| {labels.markdown(label)} | b |\n|---|---|\n| c | {labels.markdown(label)} |") == [
        [visible, "b"],
        ["c", visible],
    ]
    page = TextOf(f"<p>{labels.html(label)}</p>")
    assert page.text.translate(ISOLATES) == visible and page.tags == ["p"]
    assert not matplotlib.cbook.is_math_text(labels.mathtext(label))
    assert labels.mathtext(label).replace(r"\$", "$") == visible
    assert LATEX_TOKEN.sub("", labels.latex(label)) == ""
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        labels.terminal(label, encoding).encode(encoding)


names: dict[str, str] = {}


@settings(max_examples=2500, deadline=None)
@given(LABELS, st.sampled_from(("", ".svg", ".safetensors")))
def test_file_names_are_short_and_never_collide(label: str, suffix: str) -> None:
    name = labels.file_name(label, suffix)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.=+_-]*|[=+][A-Za-z0-9.=+_-]*", name) and name.endswith(suffix)
    assert len(name.encode()) <= 100
    assert names.setdefault(name, label + "\0" + suffix) == label + "\0" + suffix


def test_chosen_file_names() -> None:
    assert labels.file_name("FreeSplatter", ".svg") == "FreeSplatter.svg"
    assert labels.file_name("patch 4, 2 blocks") == "patch_4__2_blocks"
    assert re.fullmatch(r"a_b_[0-9a-f]{10}", labels.file_name("a/b"))
    assert len({labels.file_name(label) for label in CHOSEN}) == len(CHOSEN)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no TeX on this machine")
def test_pdflatex_compiles_every_label(tmp_path: Path) -> None:
    rows = "\\\\\n".join(f"{labels.latex(label)} & x" for label in CHOSEN if len(label) < 100)
    document = (
        rf"\documentclass{{article}}\begin{{document}}\begin{{tabular}}{{ll}}{rows}\end{{tabular}}\end{{document}}"
    )
    (tmp_path / "labels.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "labels.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]


def test_matplotlib_draws_labels() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    for label in ("$x", "$x$", r"\alpha $", r"a\$b$", "a_b^c{"):
        figure.text(0, 0, labels.mathtext(label))
    figure.canvas.draw()  # raises for text that it takes for a formula and cannot parse
    assert all(text.get_window_extent().width > 0 for text in figure.texts)


@pytest.mark.parametrize(
    ("label", "breaks"), [("x" * 60, 59), ("x" * 20, 0), ("提" * 30, 58), ("提案", 1), ("word " * 30, 0)]
)
def test_words_that_no_line_may_hold_can_be_broken_in_latex(label: str, breaks: int) -> None:
    assert labels.latex(label).count(r"\allowbreak{}") == breaks
