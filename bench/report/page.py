"""An executed notebook as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report.html import css, render

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK_ONLY = "notebook"  # tag of cells that are not on the page


@dataclass(frozen=True)
class Block:
    """A cell on the page; a heading opens a section."""

    html: str
    heading: str = ""
    code: str = ""

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.heading.lower()).strip("-")


def page(notebook: NotebookNode, title: str, subtitle: str) -> str:
    """The whole document; code is folded."""
    blocks = list(_blocks(notebook))
    contents = [(block.slug, block.heading) for block in blocks if block.heading]
    values = {"title": title, "subtitle": subtitle, "blocks": blocks, "contents": contents, "css": css("page")}
    return render("page", values)


def _blocks(notebook: NotebookNode) -> Iterator[Block]:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False})
    for cell in notebook.cells:
        if NOTEBOOK_ONLY in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            heading, _, rest = cell.source.partition("\n")
            if heading.startswith("## "):
                yield Block(markdown.render(rest), heading.removeprefix("## "))
        elif html := "".join(map(_output, cell.outputs)):
            yield Block(html, code=cell.source)


def _output(output: NotebookNode) -> str:
    """The HTML of our own templates, which escape every value; other outputs are not for the page."""
    data = output.get("data", {})
    return str(data.get("text/html", ""))
