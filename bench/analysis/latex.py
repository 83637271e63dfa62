"""LaTeX tables that fit a two-column article; booktabs is the only package that they need."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from bench.analysis.formatting import DAGGER

SYMBOLS = {"±": r"$\pm$", DAGGER: r"$^\dagger$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": r"$-$",
           "Δ": r"$\Delta$", "μ": r"$\mu$", "‖": r"$\|$", "×": r"$\times$", "λ": r"$\lambda$", "θ": r"$\theta$",
           "…": r"\dots{}", "–": "--", "—": "---", "α": r"$\alpha$", "²": r"$^2$"}  # fmt: skip
SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "\\": r"\textbackslash{}", "[": "{[}", "]": "{]}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
PAGE_PT = 460  # text width of article's twocolumn
SIZES = {r"\small": 4.9, r"\footnotesize": 4.4, r"\scriptsize": 3.9}  # pt that a character takes, about
LABEL_CHARACTERS = 34  # longer labels are set in several lines


def escape(text: str) -> str:
    """Any text, safe in LaTeX's text mode."""
    return "".join(SPECIAL.get(c) or SYMBOLS.get(c) or c for c in text)


def latex(cells: pd.DataFrame, title: str, notes: Sequence[str], label: str) -> str:
    """A table of plain text; see `environment`."""
    rows = [[escape(str(cell)) for cell in row] for row in cells.itertuples(index=False)]
    return environment(list(map(str, cells)), rows, escape(title), list(map(escape, notes)), label)


def environment(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    notes: Sequence[str],
    label: str,
    rules: Sequence[int] = (),
) -> str:
    """A `table*`: headings as plain text, all else as LaTeX: cells, a short caption, the notes that stand below.
    `rules`: the rows that have a line above them.

    The font is the largest of three at which the columns fit the page; the first column wraps long labels.
    """
    labels = [row[0] for row in rows]
    wrapped = max(map(_length, labels), default=0) > LABEL_CHARACTERS
    columns = [[heading.rpartition(" [")[0] or heading, *cells] for heading, cells in
               zip(headings[1:], list(zip(*rows, strict=True))[1:], strict=True)]  # fmt: skip
    first = min(LABEL_CHARACTERS, max(map(_length, labels), default=0))
    characters = first + sum(max(map(_length, column)) for column in columns)
    fits = (size for size, width in SIZES.items() if characters * width + 8 * len(columns) <= PAGE_PT)
    first_column = rf"p{{{LABEL_CHARACTERS / 2:g}em}}" if wrapped else "l"
    if wrapped:
        labels = [rf"\raggedright {text}" for text in labels]
    lines = [
        "% needs \\usepackage{booktabs}; in UTF-8",
        r"\begin{table*}[t]",
        r"\centering" + next(fits, r"\scriptsize"),
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{title}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{first_column}{'r' * len(columns)}@{{}}}}",
        r"\toprule",
        " & ".join(map(_heading, headings)) + r" \\",
        r"\midrule",
    ]
    for i, (text, row) in enumerate(zip(labels, rows, strict=True)):
        lines += [r"\midrule"] if i in rules else []
        lines.append(" & ".join([text, *row[1:]]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes:
        body = r"\par ".join(notes)
        lines += ["", r"\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {body}}}"]
    return "\n".join([*lines, r"\end{table*}", ""])


def reference(text: str) -> str:
    """A `\\label` for a table of this name."""
    return "tab:" + (re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "results")


def _heading(text: str) -> str:
    """The unit below the name."""
    name, _, unit = text.rpartition(" [")
    return rf"\shortstack[r]{{{escape(name)}\\{{}}{escape('[' + unit)}}}" if name else escape(text)


def _length(cell: str) -> int:
    """Printed characters, about."""
    return len(re.sub(r"\\(textbf|underline|scriptsize|[a-zA-Z]+)|[{}$]", "", cell))
