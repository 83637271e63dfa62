"""How tables are printed: numbers, headings, Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

PARAMETERS = "Params."
DAGGER = "†"  # marks runs that do not exceed a baseline
HEADINGS = {"reserved_peak_memory_gib": "GPU mem. [GiB]", "host_peak_memory_gib": "Host mem. [GiB]",
            "step_time_ms": "Step [ms]"}  # fmt: skip
DECIMALS = {"ssim": 3, "lpips_vgg": 3, "lpips_alex": 3, "depth_error": 3, "point_error": 3, "step_time_ms": 0}
ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}


@dataclass(frozen=True)
class FormattedTable:
    """A table as it is read: cells as text, what must be known beside them, and what each number means."""

    title: str
    cells: pd.DataFrame
    remarks: Sequence[str]
    definitions: Sequence[str]


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
    """Title, table and notes; `read_markdown` reads it back."""
    alignment = ["left"] + ["right"] * (table.cells.shape[1] - 1)
    body = table.cells.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    notes = "\n".join(f"- {note}" for note in (*table.remarks, *table.definitions))
    return f"**{table.title}**\n\n{body}\n\n{notes}\n"


def read_markdown(text: str) -> FormattedTable:
    """What `markdown` wrote; for summaries whose runs are not here."""
    lines = text.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    first = next((i for i, note in enumerate(notes) if note.startswith(PARAMETERS)), len(notes))
    return FormattedTable(lines[0].strip("*"), pd.DataFrame(cells[2:], columns=cells[0]), notes[:first], notes[first:])
