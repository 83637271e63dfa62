"""HTML pieces: Jinja templates of this folder with every value escaped, tables, and pictures as data."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common import labels

if TYPE_CHECKING:
    import jinja2
    import pandas as pd

SVG_LIMIT = 600_000  # bytes; a larger drawing is shown as its PNG, where there is one
MIME = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True)
class Html:
    """What a notebook shows as HTML, and a terminal as `plain`."""

    html: str
    plain: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.plain


@dataclass(frozen=True)
class Line:
    """A table's line; `kind` becomes its class."""

    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: headings, lines of text, and the columns that hold words and are set flush left."""

    head: Sequence[str]
    lines: Sequence[Line]
    words: Collection[int] = (0,)


def grid(frame: pd.DataFrame, text_columns: Collection[str], kind: str = "") -> Grid:
    """A frame of text cells; `text_columns` are left-aligned; the column `kind` names the lines' kinds."""
    cells = frame.drop(columns=kind) if kind else frame
    kinds = frame[kind] if kind else [""] * len(frame)
    rows = cells.itertuples(index=False, name=None)
    lines = [Line([str(cell) for cell in row], name) for row, name in zip(rows, kinds, strict=True)]
    return Grid(list(map(str, cells)), lines, [i for i, name in enumerate(cells) if name in text_columns])


def picture(path: Path) -> str:
    """A data URI of an SVG or PNG file; of a figure in both formats the SVG, unless it is larger than SVG_LIMIT."""
    other = path.with_suffix(".png")
    chosen = other if path.suffix == ".svg" and other.is_file() and path.stat().st_size > SVG_LIMIT else path
    return f"data:{MIME[chosen.suffix]};base64,{base64.b64encode(chosen.read_bytes()).decode()}"


@cache
def environment() -> jinja2.Environment:
    import jinja2
    import markupsafe

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals["picture"] = picture
    templates.filters["label"] = lambda text: markupsafe.Markup(labels.html(str(text)))
    return templates


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template of this folder, filled."""
    return environment().get_template(f"{template}.html").render(values)


def css(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.css").read_text(encoding="utf-8")
