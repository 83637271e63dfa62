"""LaTeX tables that fit a two-column article; booktabs is the only package that they need."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pandas as pd

from bench.common import labels

PAGE_PT = 460  # text width of article's twocolumn
SIZES = {r"\small": 4.9, r"\footnotesize": 4.4, r"\scriptsize": 3.9}  # pt that a character takes, about
SEPARATION_PT = 8.0  # between columns
NARROWEST_PT = 80.0  # of a column of text


def latex(cells: pd.DataFrame, title: str, notes: Sequence[str], label: str) -> str:
    """A table of plain text; see `environment`."""
    rows = [[labels.latex(str(cell)) for cell in row] for row in cells.itertuples(index=False)]
    return environment(list(map(str, cells)), rows, labels.latex(title), list(map(labels.latex, notes)), label)


def environment(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    notes: Sequence[str],
    label: str,
    rules: Sequence[int] = (),
    text_columns: Collection[int] = (0,),
) -> str:
    """A `table*`: headings as plain text, all else as LaTeX: cells, a short caption, the notes that stand below.
    `rules`: the rows that have a line above them; `text_columns` are wrapped where the page is too narrow.
    """
    size, columns = _columns([list(map(_length, column)) for column in zip(*rows, strict=True)], headings, text_columns)
    wrapped = [column.startswith("p") for column in columns]
    lines = [
        "% needs \\usepackage{booktabs}; in UTF-8",
        r"\begin{table*}[t]",
        r"\centering" + size,
        r"\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{title}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{''.join(columns)}@{{}}}}",
        r"\toprule",
        " & ".join(map(_heading, headings)) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(rows):
        lines += [r"\midrule"] if i in rules else []
        cells = [rf"\raggedright {c}" if wrap and c else c for c, wrap in zip(row, wrapped, strict=True)]
        lines.append(" & ".join(cells) + (r" \tabularnewline" if wrapped[-1] else r" \\"))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        body = r"\par ".join(notes)
        lines += ["", r"\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {body}}}"]
    return "\n".join([*lines, r"\end{table*}", ""])


def _columns(
    lengths: Sequence[Sequence[int]], headings: Sequence[str], text_columns: Collection[int]
) -> tuple[str, list[str]]:
    """The font's size and each column's type: the largest font at which numbers fit the page and columns of text have
    their width, or as much as the others leave, but NARROWEST_PT."""
    longest = [max([len(heading.rpartition(" [")[0] or heading), *column])
               for heading, column in zip(headings, lengths, strict=True)]  # fmt: skip
    for chosen, character_pt in SIZES.items():
        size, widths = chosen, [count * character_pt for count in longest]
        numbers = sum(width for i, width in enumerate(widths) if i not in text_columns)
        room = PAGE_PT - numbers - SEPARATION_PT * (len(widths) - 1)
        texts = {i: widths[i] for i in text_columns}
        least = {i: min(width, NARROWEST_PT) for i, width in texts.items()}
        if sum(least.values()) <= room:
            break
    spare, wanted = max(0.0, room - sum(least.values())), sum(texts.values()) - sum(least.values())
    share = min(1.0, spare / wanted) if wanted else 1.0
    types = ["r"] * len(widths)
    for i, width in texts.items():
        assigned = least[i] + share * (width - least[i])
        types[i] = "l" if assigned >= width else f"p{{{assigned:.0f}pt}}"
    return size, types


def reference(text: str) -> str:
    """A `\\label` for a table of this name."""
    return "tab:" + (re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "results")


def _heading(text: str) -> str:
    """The unit below the name."""
    name, _, unit = text.rpartition(" [")
    return rf"\shortstack[r]{{{labels.latex(name)}\\{{}}{labels.latex('[' + unit)}}}" if name else labels.latex(text)


STACK = r"\begin{tabular}[t]{@{}r@{}}", r"\\{}", r"\end{tabular}"


def stack(*lines: str) -> str:
    """A cell of several lines of LaTeX; the first one is on the row's line."""
    return STACK[0] + STACK[1].join(lines) + STACK[2]


def _length(cell: str) -> int:
    """Printed characters, about."""
    if cell.startswith(STACK[0]):
        return max(map(_length, cell.removeprefix(STACK[0]).removesuffix(STACK[2]).split(STACK[1])))
    return len(re.sub(r"\\[a-zA-Z]+|[{}$\\]", "", cell))
