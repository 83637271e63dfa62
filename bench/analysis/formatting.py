"""How tables are printed: numbers, headings, Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.common import labels

PARAMETERS = "Params."
DAGGER = "†"  # marks runs that do not exceed a baseline
HEADINGS = {"reserved_peak_memory_gib": "GPU mem. [GiB]", "host_peak_memory_gib": "Host mem. [GiB]",
            "forward_gflop": "Forward [GFLOP]", "step_time_ms": "Step [ms]"}  # fmt: skip
DECIMALS = {"ssim": 3, "lpips_vgg": 3, "lpips_alex": 3, "depth_error": 3, "point_error": 3,
            "completion_error": 3, "step_time_ms": 0, "pretraining_tflop": 1}  # fmt: skip
ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}


@dataclass(frozen=True)
class FormattedTable:
    """A table as it is read: cells as text, what must be known beside them, and what each number means.

    The title, the remarks and the columns `text_columns` may hold labels, which are any text: they are escaped by what
    prints the table.
    """

    title: str
    cells: pd.DataFrame
    remarks: Sequence[str]
    definitions: Sequence[str]
    text_columns: Collection[str] = ("",)


def format_number(name: str, value: float) -> str:
    """A metric or measurement with its decimals; empty for nan."""
    return "" if math.isnan(value) else f"{value:.{DECIMALS.get(name, 2)}f}"


def format_difference(name: str, value: float) -> str:
    """With its sign and one decimal more than the number itself, since differences are small; empty for nan."""
    return "" if math.isnan(value) else f"{value:+.{DECIMALS.get(name, 2) + 1}f}".replace("-", "−")


def millions(count: int | None) -> str:
    """Truncated as the paper prints them: 307,941,824 → 307M; 2,499,999 → 2.4M; 99,999 → 99k."""
    if count is None:
        return ""
    if count < 10**5:
        return f"{count // 10**3}k"
    return f"{count // 10**6}M" if count >= 10**7 else f"{count // 10**5 / 10:.1f}M"


def markdown(table: FormattedTable) -> str:
    """Title, table and notes, for files; `read_markdown` reads it back."""
    escaped = table.cells.apply(
        lambda column: column.map(labels.markdown) if column.name in table.text_columns else column
    )
    notes = [*map(labels.markdown, table.remarks), *table.definitions]
    return _layout(escaped, f"**{labels.markdown(table.title)}**", notes, table.text_columns)


def terminal(table: FormattedTable) -> str:
    """Without definitions and escapes, in characters that the terminal can print."""
    cells = table.cells.map(labels.terminal)
    title, notes = labels.terminal(table.title), list(map(labels.terminal, table.remarks))
    return _layout(cells, title, notes, table.text_columns)


def read_markdown(text: str) -> FormattedTable:
    """What `markdown` wrote; for summaries whose runs are not here."""
    lines = text.splitlines()
    rows = [
        [_unescape(cell) for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines if line[:1] == "|"
    ]
    notes = [_unescape(line.removeprefix("- ")) for line in lines if line.startswith("- ")]
    first = next((i for i, note in enumerate(notes) if note.startswith(PARAMETERS)), len(notes))
    texts = [name for name, rule in zip(rows[0], rows[1], strict=True) if not rule.endswith(":")]  # set flush left
    cells = pd.DataFrame(rows[2:], columns=rows[0])
    return FormattedTable(_unescape(lines[0].strip("*")), cells, notes[:first], notes[first:], texts)


def _unescape(text: str) -> str:
    return re.sub(r"\\([!-/:-@[-`{-~])", r"\1", text).strip()


def _layout(cells: pd.DataFrame, title: str, notes: Sequence[str], text_columns: Collection[str]) -> str:
    alignment = ["left" if name in text_columns else "right" for name in cells]
    body = cells.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    return f"{title}\n\n{body}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"
