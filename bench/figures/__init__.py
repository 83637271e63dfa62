"""Figures of a sweep: Fig. 1 (the model), Fig. 2 (pictures and depth), Fig. 3 (loss terms), a comparison, time and
memory of a step, against the number of views, and quality against minutes of training.

`style` is their common style; each other file is one figure, drawn from plain numbers by `draw`. `write` reads a sweep
and draws what its runs hold: a run that lacks a stage is missing in the figure that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.formatting import ARROWS
from bench.analysis.sweep_results import SweepResults, SweepRun, group_names, read_sweep
from bench.common import labels
from bench.common.files import atomic_write, remove_files
from bench.common.json_files import read_lines, write_json
from bench.figures import of_traces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.figures.number_of_views import Panel

AS_PNG = ("qualitative", "comparison")  # alone; all other kinds as SVG, too
KINDS = ("loss_curves", "qualitative", "comparison", "model", *of_traces.KINDS, "number_of_views", "quality_over_time")
MODELS = 6  # columns of the qualitative sheet, and diagrams: the first ones of a large sweep
AGAINST_VIEWS = ("psnr", "lpips_vgg", "depth_error", "point_error", "completion_error")
MEMORY = (("reserved_peak_memory_gib", "GPU memory"), ("allocated_peak_memory_gib", "Allocated memory"),
          ("host_peak_memory_gib", "Host memory"))  # fmt: skip
COMPARED = (("psnr", "PSNR [dB]"), ("psnr_foreground", "FG PSNR [dB]"), ("grid_ratio", "Grid ratio"))

Figures = Iterator[tuple[str, "Callable[[], Figure]"]]  # file name, function that draws it


def write(sweep_folder: Path, results: Path, kinds: Collection[str] = KINDS) -> list[Path]:
    """figures/: loss_curves, qualitative, comparison, model_<label>, of traced runs those of `of_traces` and a JSON of
    time_by_part, number_of_views of sweeps over it, in training or evaluation, quality_over_time where training
    validated; returns what was written. Those of `kinds` that the sweep no longer has are removed.

    Of all `kinds`, only `model` imports torch.
    """
    from bench.figures import style

    sweep = read_sweep(sweep_folder, results)
    functions = {"loss_curves": _loss_curves, "qualitative": _qualitative, "comparison": _comparison,
                 "model": _diagrams, "number_of_views": _number_of_views, "quality_over_time": _quality_over_time,
                 **{kind: getattr(of_traces, kind) for kind in of_traces.KINDS}}  # fmt: skip
    written = []
    with style.style():
        for name, draw in [figure for kind in kinds for figure in functions[kind](sweep)]:
            written.append(sweep_folder / "figures" / name)
            atomic_write(written[-1], partial(style.save, draw()))
    if "time_by_part" in kinds and (traces := of_traces.traces(sweep)):
        written.append(sweep_folder / "figures" / "time_by_part.json")
        times = {label: {k: v for k, v in t.items() if k not in ("memory", "operators")} for label, t in traces.items()}
        write_json(written[-1], {"runs": times})
    if not (sweep.summary_only or sweep.lacks_runs):
        remove_files(sweep_folder / "figures", _names(kinds, sweep.groups()) - {path.name for path in written})
    return written


def remove_former_diagrams(sweep_folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Of settings that the sweep's recorded lines of runs.jsonl name and its new ones do not."""
    before, now = (
        set(group_names({line["id"]: line for line in of}).values())
        for of in (read_lines(sweep_folder / "runs.jsonl"), lines)
    )
    remove_files(sweep_folder / "figures", _names(["model"], before - now))


def _names(kinds: Collection[str], settings: Collection[str]) -> set[str]:
    """Of all files that `write` makes of a sweep with these settings, if it has what each of `kinds` shows."""
    diagrams = map(diagram_name, settings) if "model" in kinds else ()
    times = ("time_by_part.json",) if "time_by_part" in kinds else ()
    others = [kind for kind in kinds if kind != "model"]
    return {*diagrams, *times, *(f"{kind}.png" for kind in others),
            *(f"{kind}.svg" for kind in others if kind not in AS_PNG)}  # fmt: skip


def _loss_curves(sweep: SweepResults) -> Figures:
    from bench.figures import loss_curves, series

    metrics = {label: [run.folder.metrics() for run in runs] for label, runs in sweep.groups().items()}
    curves = {label: recorded for label, runs in metrics.items() if (recorded := [steps for steps in runs if steps])}
    if curves:
        for suffix in ("png", "svg"):
            yield f"loss_curves.{suffix}", partial(loss_curves.draw, curves, series.of_sweep(sweep))


def _qualitative(sweep: SweepResults) -> Figures:
    """The first seed of each setting: of most of those that show the same scenes and views, in the sweep's order. None
    of a study of cost, whose models are hardly trained."""
    from bench.figures import qualitative

    if sweep.studies_cost:
        return
    sheets: dict[bytes, dict[str, Any]] = {}
    for label, runs in sweep.groups().items():
        samples = next((s for run in runs if (s := _samples(run)) is not None), None)
        if samples is not None:
            same = samples["inputs"].tobytes() + samples["truth"].tobytes()
            sheets.setdefault(same, {})[label] = samples
    if sheets:
        columns = dict(islice(max(sheets.values(), key=len).items(), MODELS))
        yield "qualitative.png", partial(qualitative.draw, columns)


def _comparison(sweep: SweepResults) -> Figures:
    from bench.analysis.table_rows import table_rows
    from bench.figures import comparison, series

    protocols = sweep.protocols()
    if not protocols:
        return
    rows = table_rows(sweep, protocols[0])
    runs = [row for row in rows if row.kind == "run"]
    baselines = [row for row in rows if row.kind != "run"]
    panels = []
    for name, title in COMPARED:
        better = "higher" if name.startswith("psnr") else "none"
        lines = [(row.label, row.mean(name), row.kind == "oracle") for row in baselines if row.values.get(name)]
        values = {row.label: row.values.get(name, []) for row in runs}
        panels.append(comparison.Panel(title, better, values, lines if len(lines) <= 4 else ()))
    times = {row.label: row.values.get("step_time_ms", []) for row in runs}
    if any(times.values()):  # not where nothing was trained
        panels.append(comparison.Panel("Step time [ms]", "lower", times, decimals=0))
    yield "comparison.png", partial(comparison.draw, panels, [row.label for row in runs], series.of_sweep(sweep))


def _number_of_views(sweep: SweepResults) -> Figures:
    """Of models that were trained with several numbers of input views, or evaluated with other numbers than trained."""
    from bench.analysis.variants import series_over
    from bench.figures import number_of_views, series

    if panels := [*_evaluated_panels(sweep), *_trained_panels(sweep)]:
        colors = {setting: one.color for setting, one in series.of_sweep(sweep).items()}
        for model, by_views in series_over(sweep, "views.inputs").items():
            colors[model] = colors[next(iter(by_views.values()))]
        for suffix in ("png", "svg"):
            yield f"number_of_views.{suffix}", partial(number_of_views.draw, panels, colors)


def _evaluated_panels(sweep: SweepResults) -> Iterator[Panel]:
    """Quality of each setting against the number of views that it was evaluated with."""
    from bench.analysis import number_of_views
    from bench.analysis.sweep_results import protocol_metrics
    from bench.figures.number_of_views import Panel

    protocol = next(iter(sweep.protocols()), "")
    results = number_of_views.results(sweep, protocol)
    trained = {result.setting: result.trained for result in results}
    for metric in protocol_metrics(sweep, protocol):
        name, values = metric["name"], dict[str, dict[int, Sequence[float]]]()
        for result in results:
            if measured := result.row.values.get(name):
                values.setdefault(result.setting, {})[result.number] = measured
        if name in AGAINST_VIEWS and values:
            unit = f" [{metric['unit']}]" if metric["unit"] else ""
            title = metric["heading"] + unit + ARROWS[metric["better"]]
            yield Panel(title, values, trained, number_of_views.shared_baseline(results, name))


def _trained_panels(sweep: SweepResults) -> Iterator[Panel]:
    """Quality, time and memory (reserved on a GPU, on a CPU what tensors hold) of models trained with several
    numbers of views; without the quality where these models were evaluated with several, too."""
    from bench.analysis.number_of_views import results
    from bench.analysis.table_rows import table_rows
    from bench.analysis.variants import series_over
    from bench.figures.number_of_views import Panel

    protocol = next(iter(sweep.protocols()), "")
    series = series_over(sweep, "views.inputs")
    rows = {row.label: row for row in table_rows(sweep, protocol) if row.kind == "run"}
    settings = [label for by_views in series.values() for label in by_views.values()]
    profiled = [rows[label].values for label in settings if "step_time_ms" in rows[label].values]
    memory = next((kind for kind in MEMORY if all(kind[0] in values for values in profiled)), MEMORY[-1])
    quality = () if results(sweep, protocol) else (("psnr", "PSNR [dB] ↑"),)
    for name, title in (*quality, ("step_time_ms", "Step time [ms] ↓"), (memory[0], f"{memory[1]} [GiB] ↓"),
                        ("forward_gflop", "Forward [GFLOP] ↓")):  # fmt: skip
        values = {
            model: {views: rows[label].values[name] for views, label in by_views.items() if name in rows[label].values}
            for model, by_views in series.items()
        }
        if values := {model: by_views for model, by_views in values.items() if by_views}:
            yield Panel(title, values)


def _quality_over_time(sweep: SweepResults) -> Figures:
    """Of settings that validated during training (`train.keep: best`)."""
    from bench.figures import quality_over_time, series

    metrics = {label: [run.folder.metrics() for run in runs] for label, runs in sweep.groups().items()}
    curves = {
        label: validated
        for label, runs in metrics.items()
        if (validated := [records for records in runs if len(quality_over_time.validations(records))])
    }
    if curves:
        for suffix in ("png", "svg"):
            yield f"quality_over_time.{suffix}", partial(quality_over_time.draw, curves, series.of_sweep(sweep))


def _diagrams(sweep: SweepResults) -> Figures:
    """One a distinct model, with the first scene's inputs where there are pictures."""
    from bench import config
    from bench.figures import model_diagram

    drawn: list[Any] = []
    for label, (run, *_) in sweep.groups().items():
        if not (run.folder.path / "spec.json").is_file():
            continue
        spec = config.from_dict(run.folder.spec())
        if spec.model in drawn or len(drawn) == MODELS:
            continue
        drawn.append(spec.model)
        samples = _samples(run)
        images = None if samples is None else samples["inputs"][0]
        evaluated = next(iter(run.folder.evaluations().values()), {})
        parameters = run.line.get("parameters") or evaluated.get("parameters")
        yield diagram_name(label), partial(model_diagram.draw, spec.model, spec.views.inputs, parameters, images)


def diagram_name(label: str) -> str:
    """The file of the drawing of a setting's model."""
    return "model_" + labels.file_name(label, ".svg")


def _samples(run: SweepRun) -> dict[str, NDArray[Any]] | None:
    path = run.folder.path / "samples" / "evaluation.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
