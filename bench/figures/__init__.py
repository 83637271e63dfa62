"""Figures of a sweep: Fig. 1 (the model), Fig. 2 (pictures and depth), Fig. 3 (loss terms), a comparison, step time.

`style` is their common look; each other file is one figure, drawn from plain numbers by `draw`. `write` reads a sweep
and draws what its runs hold: a run that lacks a stage is left out of the figure that needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.sweep_results import SweepResults, SweepRun, read_sweep
from bench.common.files import atomic_write
from bench.common.json_files import write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("loss_curves", "qualitative", "comparison", "model", "time_by_part")
MODELS = 6  # columns of the qualitative sheet, and diagrams: the first ones of a large sweep
COMPARED = (("psnr", "PSNR [dB]"), ("psnr_foreground", "FG PSNR [dB]"), ("grid_ratio", "Grid ratio"))

Drawn = Iterator[tuple[str, "Callable[[], Figure]"]]


def write(sweep_folder: Path, results: Path, kinds: Collection[str] = KINDS) -> list[Path]:
    """figures/: loss_curves, qualitative, comparison, model_<label>, and of traced runs time_by_part with its JSON;
    returns what was written.

    Of all `kinds`, only `model` imports torch.
    """
    from bench.figures import style

    sweep = read_sweep(sweep_folder, results)
    drawn = {"loss_curves": _loss_curves, "qualitative": _qualitative, "comparison": _comparison, "model": _diagrams,
             "time_by_part": _time_by_part}  # fmt: skip
    written = []
    for name, draw in [figure for kind in kinds for figure in drawn[kind](sweep)]:
        with style.style():
            figure = draw()
            path = sweep_folder / "figures" / name
            atomic_write(path, lambda made, figure=figure: _save(figure, made))  # type: ignore[misc]
        written.append(path)
    if "time_by_part" in kinds and (parts := _parts(sweep)):
        written.append(sweep_folder / "figures" / "time_by_part.json")
        write_json(written[-1], {"runs": parts})
    return written


def _save(figure: Figure, path: Path) -> None:
    from bench.figures import style

    style.save(figure, path)


def _loss_curves(sweep: SweepResults) -> Drawn:
    from bench.figures import loss_curves

    curves = {label: [entry.folder.metrics() for entry in entries] for label, entries in sweep.groups().items()}
    curves = {label: found for label, runs in curves.items() if (found := [records for records in runs if records])}
    if curves:
        figure = lambda: loss_curves.draw(curves)  # noqa: E731
        yield "loss_curves.png", figure
        yield "loss_curves.svg", figure


def _qualitative(sweep: SweepResults) -> Drawn:
    """The first seed of each setting, as far as they show the same scenes and views."""
    from bench.figures import qualitative

    found: dict[str, Any] = {}
    for label, entries in sweep.groups().items():
        samples = next((s for entry in entries if (s := _samples(entry)) is not None), None)
        same = samples is not None and all(np.array_equal(samples["truth"], other["truth"]) for other in found.values())
        if samples is not None and same and len(found) < MODELS:
            found[label] = samples
    if found:
        yield "qualitative.png", lambda: qualitative.draw(found)


def _comparison(sweep: SweepResults) -> Drawn:
    from bench.analysis.table_rows import table_rows
    from bench.figures import comparison

    protocols = sweep.protocols()
    if not protocols:
        return
    found = table_rows(sweep, protocols[0])
    runs = [row for row in found if row.kind == "run"]
    own = [row for row in found if row.kind != "run"]
    panels = []
    for name, title in COMPARED:
        better = "higher" if name.startswith("psnr") else "none"
        lines = [(row.label, row.mean(name), row.kind == "oracle") for row in own if row.values.get(name)]
        values = {row.label: row.values.get(name, []) for row in runs}
        panels.append(comparison.Panel(title, better, values, lines if len(lines) <= 4 else ()))
    times = {row.label: row.values.get("step_time_ms", []) for row in runs}
    if any(times.values()):  # not where nothing was trained
        panels.append(comparison.Panel("Step time [ms]", "lower", times, decimals=0))
    yield "comparison.png", lambda: comparison.draw(panels, [row.label for row in runs])


def _parts(sweep: SweepResults) -> dict[str, Any]:
    """label → the time by part of a setting's first traced seed."""
    found: dict[str, Any] = {}
    for label, entries in sweep.groups().items():
        traces = [trace for entry in entries for trace in entry.folder.traces().values()]
        found |= {label: traces[0]} if traces else {}
    return found


def _time_by_part(sweep: SweepResults) -> Drawn:
    from bench.figures import time_by_part

    if not (parts := _parts(sweep)):
        return
    places = dict.fromkeys(f"{p['device']}, {p['threads']} threads, batch {p['batch']}" for p in parts.values())
    caption = f"ms of a training step ({'; '.join(places)})"
    times = {label: part["parts_ms"] for label, part in parts.items()}
    for suffix in ("png", "svg"):
        yield f"time_by_part.{suffix}", lambda: time_by_part.draw(times, caption)


def _diagrams(sweep: SweepResults) -> Drawn:
    """One a distinct model, with the first scene's inputs where there are pictures."""
    from bench import config as specs
    from bench.figures import model_diagram

    seen: list[Any] = []
    for label, entries in sweep.groups().items():
        if not (entries[0].folder.path / "spec.json").is_file():
            continue
        spec = specs.from_dict(entries[0].folder.spec())
        if spec.model in seen or len(seen) == MODELS:
            continue
        seen.append(spec.model)
        samples = _samples(entries[0])
        images = None if samples is None else samples["inputs"][0]
        parameters = entries[0].line.get("parameters") or _parameters(entries[0])
        yield diagram_name(label), _diagram(model_diagram.draw, spec.model, spec.views.inputs, parameters, images)


def diagram_name(label: str) -> str:
    """The file of the drawing of a setting's model."""
    return f"model_{re.sub(r'[^A-Za-z0-9]+', '_', label).strip('_')}.svg"


def _diagram(draw: Callable[..., Figure], *arguments: Any) -> Callable[[], Figure]:
    return lambda: draw(*arguments)


def _parameters(entry: SweepRun) -> Any:
    return next((evaluation["parameters"] for evaluation in entry.folder.evaluations().values()), None)


def _samples(entry: SweepRun) -> dict[str, NDArray[Any]] | None:
    path = entry.folder.path / "samples" / "evaluation.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
