"""The LaTeX table: chosen columns, marks, and that it compiles and fits a two-column article."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.sweeps import PROTOCOL

from bench.analysis import tables
from bench.analysis.paper_table import paper_table
from bench.analysis.sweep_results import read_sweep
from bench.common.errors import UserError
from bench.common.json_files import read_json, read_lines, write_json
from bench.report.__main__ import main
from bench.runs.folder import write_sweep

NEEDS_TEX = pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex: Debian's texlive-latex-recommended")
ARTICLE = r"""\documentclass[twocolumn]{article}
\usepackage{booktabs}
\begin{document}
\input{table}
See Table~\ref{LABEL}.
\end{document}
"""


def latex_of(sweep: Path, *columns: str) -> str:
    return paper_table(read_sweep(sweep, sweep.parent), PROTOCOL.key, columns)


def compile_article(folder: Path, table: str) -> str:
    """pdflatex's log of two passes over an article with the table."""
    (folder / "table.tex").write_text(table, encoding="utf-8")
    label = re.search(r"\\label\{(.*?)\}", table)
    assert label
    (folder / "article.tex").write_text(ARTICLE.replace("LABEL", label[1]), encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "article.tex"]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=100)
        assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")
    return (folder / "article.log").read_text(encoding="utf-8", errors="replace")


def test_best_is_bold_second_underlined_and_empty_columns_are_dropped(finished_sweep: Path) -> None:
    text = latex_of(finished_sweep)
    rows = {line.replace(r"\raggedright ", "").split(" & ")[0].strip(): line for line in text.splitlines()}
    assert r"\textbf{19.15} {\scriptsize $\pm$ 0.21}" in rows["Ours1"]
    assert r"\underline{18.20}" in rows[r"FreeSplatter $^\dagger$"]
    assert r"\textbf" not in rows[r"flat mean color in the true mask (oracle)"]
    assert rows[r"flat mean color in the true mask (oracle)"].split(" & ")[-1] == r"-- \\"  # no step time
    assert rows["Ours2"].split(" & ")[1] == ""  # not finished
    assert "LPIPS" not in text.partition(r"\parbox")[0] and "GPU mem." not in text
    caption = re.search(r"\\caption\{(.*)\}\n\\label\{tab:table3-tiny\}", text)
    assert caption and len(caption[1].split()) < 40 and r"per\_image\_white@1" in caption[1]
    conditions = "Step times measured on a processor, batch 16; load average 0.5."
    assert conditions in text and conditions not in latex_of(finished_sweep, "psnr")
    assert conditions in (finished_sweep / "tables" / "table.md").read_text()
    assert conditions in tables.terminal_summary(finished_sweep, finished_sweep.parent)
    assert "Definitions" not in text and r"Best run in \textbf{bold}" in text.partition(r"\end{tabular}")[2]


def test_columns_are_chosen_and_constant_ones_stand_in_the_notes(finished_sweep: Path, sweep_copy: Path) -> None:
    text = latex_of(finished_sweep, "ssim", "psnr", "lpips_vgg")
    assert text.index("SSIM") < text.index("PSNR $") and r"{@{}lrr@{}}" in text
    lines = [line for line in read_lines(sweep_copy / "runs.jsonl") if not line["label"].startswith("Ours2")]
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json"), lines, {})
    assert "Params.: 307M in every run." in latex_of(sweep_copy, "psnr", "parameters")
    with pytest.raises(UserError, match=r"--columns lpip: no such column; choose from psnr, ssim"):
        latex_of(finished_sweep, "lpip")


def test_the_command_writes_it(sweep_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep_copy), "--latex", "--columns", "psnr, parameters"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == sweep_copy / "tables" / "paper.tex" and "SSIM" not in path.read_text()
    with pytest.raises(UserError, match="add --latex"):
        main([str(sweep_copy), "--columns", "psnr"])


@NEEDS_TEX
@pytest.mark.parametrize("name", ["table", "answers"])
def test_the_tables_of_a_sweep_compile_and_fit(finished_sweep: Path, tmp_path: Path, name: str) -> None:
    log = compile_article(tmp_path, (finished_sweep / "tables" / f"{name}.tex").read_text(encoding="utf-8"))
    assert "Overfull" not in log and "undefined" not in log.lower()


def test_a_name_stands_in_caption_and_label(sweep_copy: Path) -> None:
    write_json(sweep_copy / "sweep.json", read_json(sweep_copy / "sweep.json") | {"folder_name": "mine"})
    text = latex_of(sweep_copy)
    assert r"\caption{mine (table3 train.steps=60 seeds={[}0, 1{]}) at scale tiny; " in text
    assert r"\label{tab:mine-tiny}" in text


@NEEDS_TEX
@pytest.mark.parametrize(
    "names",
    [
        {"FreeSplatter": "L1|L2 & 100 % _loss_", "Ours1": "提案手法", "Ours2": "x" * 20 + " " + "long label " * 12},
        {"FreeSplatter": "x" * 60, "Ours1": "提" * 60, "Ours2": "model_with-a/very.long+name," * 3},
    ],
)
def test_all_columns_and_any_label_compile_and_fit(sweep_copy: Path, tmp_path: Path, names: dict[str, str]) -> None:
    lines = read_lines(sweep_copy / "runs.jsonl")
    for line in lines:
        label, _, seed = line["label"].partition(", seed ")
        line["label"] = f"{names[label]}, seed {seed}"
    write_sweep(sweep_copy, read_json(sweep_copy / "sweep.json") | {"reference": None}, lines, {})
    columns = ("psnr", "ssim", "psnr_foreground", "depth_error", "parameters", "host_peak_memory_gib", "step_time_ms")
    assert "Overfull" not in compile_article(tmp_path, latex_of(sweep_copy, *columns))
    tables.write(sweep_copy, sweep_copy.parent)
    answers = (sweep_copy / "tables" / "answers.tex").read_text(encoding="utf-8")
    assert "Overfull" not in compile_article(tmp_path, answers)
