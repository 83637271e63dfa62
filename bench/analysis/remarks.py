"""What must be known beside a table's numbers: where they come from, what limits them, what each one means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.analysis.estimates import estimate_ratios
from bench.analysis.formatting import DAGGER, PARAMETERS
from bench.analysis.sweep_results import SweepResults, SweepRun
from bench.analysis.table_rows import OF, TableRow
from bench.runtime import provenance

TINY = (
    "Tiny results (minutes of training on a CPU at 32 px, a small encoder of this repository in place of MASt3R's) "
    "show that the mechanics work, in which direction a change goes, and claim 3 (grid artifact of linear heads, "
    "reduced by a DPT head). The sizes of their differences do not carry over to the paper's scale, and their numbers "
    "are not comparable with the paper's."
)
SEEDS = "The standard deviation of PSNR between seeds is about 0.2 dB: differences need at least 3 seeds."
STEP_TIMES = "Step times"
ORACLE = (
    "exceeds every model here because it is given each target view's true mask: the background and the silhouette's "
    "edge, most of the pixels, are exact, while a small model that was trained briefly blurs them; it is a bound for "
    "what the silhouette alone is worth, not a competitor"
)


def caption(sweep: SweepResults, protocol: str) -> str:
    """Scale, protocol, scenes, data and commit, as recorded."""
    parts = [subject(sweep), *evaluated_on(sweep, protocol), *filter(None, ["; ".join(commits_of(sweep, protocol))])]
    return "; ".join(parts) + "."


def subject(sweep: SweepResults) -> str:
    """The sweep's name and scale, with the spec, if it is named otherwise, and the overrides."""
    spec = " ".join([sweep.sweep["name"], *sweep.sweep.get("overrides", ())])
    name = spec if sweep.name == sweep.sweep["name"] else f"{sweep.name} ({spec})"
    return f"{name} at scale {sweep.scale}"


def evaluated_on(sweep: SweepResults, protocol: str) -> list[str]:
    """Protocol, scenes and views of the first evaluation; empty without one."""
    evaluation = next((e for _, e in _evaluations(sweep, protocol)), None)
    if evaluation is None:
        return []
    views, data = next(iter(evaluation["views"].values())), evaluation["data"]
    return [
        f"protocol {protocol}",
        f"{len(evaluation['scenes'])} evaluation scenes of {data['name']} {data.get('version', '')}".strip(),
        f"{len(views['inputs'])} inputs and {len(views['targets'])} targets at {evaluation['image_size']} px",
    ]


def commits_of(sweep: SweepResults, protocol: str) -> list[str]:
    """What a caption says of the code: the commit that computed the table's numbers, or that there are several; then
    the spec's file, where that commit does not hold it. Without any number, the commit that recorded the sweep."""
    labels = list(_stages_by_commit(sweep, protocol)) or provenance.commit_labels(sweep.environment)
    spec_file = list(filter(None, [spec_file_remark(sweep)]))
    if not labels:
        return []
    if len(labels) > 1:
        return [f"{len(labels)} commits (see below)", *spec_file]
    changed = " (with local changes)" if labels[0].endswith("+") or spec_file else ""
    return [f"commit {labels[0].rstrip('+')}{changed}", *spec_file]


def spec_file_remark(sweep: SweepResults) -> str:
    """Empty where the commit holds the spec's file as it was run, or where that was not recorded."""
    state, path = sweep.environment.get("spec_file") or "committed", sweep.sweep.get("spec", "")
    sentences = {
        "changed": f"the spec file {path} differs from the commit",
        "untracked": f"the spec file {path} is in no commit",
        "outside the repository": f"the spec file {path} lies outside the repository, so no commit holds it",
    }
    return sentences.get(state, "")


def remarks(sweep: SweepResults, protocol: str, rows: Sequence[TableRow]) -> list[str]:
    """What keeps the numbers from being taken at face value."""
    runs = [row for row in rows if row.kind == "run"]
    untrained = [run for run in sweep.runs if run.line.get("steps") == 0]
    notes = [*filter(None, [tiny_remark(sweep)])]
    notes += [_untrained(untrained)] if untrained else []
    notes += [*_evaluation_notes(sweep, protocol), *_resizing_notes(sweep), *_baseline_notes(rows)]
    if any(len(row.values.get("psnr", ())) > 1 for row in runs):
        notes.append("± is the standard deviation between seeds (n − 1).")
    missing = {n: r for _, e in _evaluations(sweep, protocol) for n, r in e.get("missing", {}).items()}
    notes += [f"{name} is missing: {reason}." for name, reason in missing.items()]
    notes += [*code_notes(sweep, protocol), *_data_notes(sweep, protocol, runs)]
    notes += filter(None, [step_conditions(sweep)])
    if unfinished := [f"{row.label}: {row.status}" for row in runs if row.status != "done"]:
        notes.append(f"Not finished: {'; '.join(unfinished)}.")
    return notes


def tiny_remark(sweep: SweepResults) -> str:
    """What results of scale tiny are evidence for; empty at other scales, and where nothing was trained."""
    if sweep.scale != "tiny" or all(run.line.get("steps") == 0 for run in sweep.runs):
        return ""
    return TINY if sweep.studies_cost else f"{TINY} {SEEDS}"


def definitions(sweep: SweepResults, metrics: Sequence[Mapping[str, str]]) -> list[str]:
    """What each column means, and on what it was measured."""
    notes = [f"{PARAMETERS} are trained parameters, truncated to millions as in the paper."]
    profiles = [profile for run in sweep.runs for profile in run.folder.profiles().values()]
    if profile := next(iter(profiles), None):
        step, memory = (profile["definitions"][name] for name in ("step_time_ms", "host_peak_memory_gib"))
        notes.append(f"Step: {step}.")
        on_gpu = any(profile.get("reserved_peak_memory_gib") for profile in profiles)
        notes.append(f"Host mem.: {memory}.{' GPU mem.: reserved.' if on_gpu else ''}")
        if flops := profile["definitions"].get("forward_gflop"):
            notes.append(f"Forward: {flops}.")
    if ratios := estimate_ratios(sweep):
        notes.append(f"Estimate ÷ measured: {'; '.join(f'{label}: {text}' for label, text in ratios.items())}.")
    return notes + [f"{metric['heading']}: {metric['definition']}." for metric in metrics]


def code_notes(sweep: SweepResults, protocol: str) -> Iterator[str]:
    """Numbers of several commits, and code that changed since the weights were trained."""
    commits = _stages_by_commit(sweep, protocol)
    if len(commits) > 1:
        stages = "; ".join(f"{commit} ({', '.join(stages)})" for commit, stages in commits.items())
        changed = "; + means with local changes" if any(commit.endswith("+") for commit in commits) else ""
        yield f"These numbers come from different commits: {stages}{changed}."
    changed_code: dict[str, list[str]] = {}
    for run in sweep.runs:
        if files := run.line.get("changed_code"):
            changed_code.setdefault(", ".join(files), []).append(run.label)
    for names, labels in changed_code.items():
        yield f"Changed since {'; '.join(labels)} was trained: {names}. --force trains it again."


def step_conditions(sweep: SweepResults) -> str:
    """On what step times were measured; empty where none was."""
    profiles = [profile for run in sweep.runs for profile in run.folder.profiles().values()]
    devices = dict.fromkeys(f"{profile['device']}, batch {profile['batch']}" for profile in profiles)
    return f"{STEP_TIMES} measured on {'; '.join(devices)}{load_average(sweep)}." if devices else ""


def load_average(sweep: SweepResults) -> str:
    """How busy the machine was while step times were measured, as a clause; empty where that was not recorded."""
    profiles = [profile for run in sweep.runs for profile in run.folder.profiles().values()]
    loads = [profile["load_average"] for profile in profiles if profile.get("load_average") is not None]
    if not loads:
        return ""
    low, high = (f"{value:.1f}" for value in (min(loads), max(loads)))
    cores = max(profile.get("provenance", {}).get("cores", 0) for profile in profiles)
    spread = low if low == high else f"{low} to {high}"
    busy = ": other work slowed the steps" if cores and max(loads) > cores + 1 else ""
    return f"; load average {spread}" + (f" on {cores} cores" if cores else "") + busy


def _evaluations(sweep: SweepResults, protocol: str) -> Iterator[tuple[SweepRun, Mapping[str, Any]]]:
    for run in sweep.runs:
        if evaluation := run.folder.evaluations().get(protocol):
            yield run, evaluation


def _stages_by_commit(sweep: SweepResults, protocol: str) -> dict[str, list[str]]:
    """Commit → the runs, or stages of runs, whose numbers stand in the table."""

    def in_table(stage: str) -> bool:
        return stage in ("train", f"evals/{protocol}") or stage.startswith("profiles/")

    runs = {run.label: {s: record for s, record in run.provenance.items() if in_table(s)} for run in sweep.runs}
    return provenance.by_commit(runs)


def _evaluation_notes(sweep: SweepResults, protocol: str) -> Iterator[str]:
    """Fewer scenes than asked for, and evaluations that do not compare with each other."""
    frames, shortfalls, scenes = set(), dict[str, list[str]](), dict[tuple[str, ...], list[str]]()
    for run, evaluation in _evaluations(sweep, protocol):
        frames |= {evaluation["frame"]} if "frame" in evaluation else set()
        scenes.setdefault(tuple(evaluation["scenes"]), []).append(run.label)
        requested, count = run.line.get("spec", {}).get("evaluation", {}).get("scenes"), len(evaluation["scenes"])
        if requested and count < requested:
            text = f"asked for {requested} evaluation scenes, there {'is' if count == 1 else 'are'} {count}"
            shortfalls.setdefault(text, []).append(run.label)
    everyone = sum(map(len, scenes.values()))
    for text, labels in shortfalls.items():
        yield f"{text[0].upper()}{text[1:]}{'' if len(labels) == everyone else ' (' + '; '.join(labels) + ')'}."
    if len(scenes) > 1:
        groups = "; ".join(f"{len(names)} scenes ({', '.join(labels)})" for names, labels in scenes.items())
        yield f"Evaluated on different scenes, so these rows do not compare: {groups}."
    if len(frames) > 1:
        yield f"Depth and point errors of different frames ({', '.join(sorted(frames))}) do not compare."


def _resizing_notes(sweep: SweepResults) -> Iterator[str]:
    """Encoders whose patch divides no image that the others' divide."""
    for label, fields in sweep.fields.items():
        patch, covered = fields.get("model.encoder.patch"), fields.get("model.encoder.image_patch")
        if covered and patch != covered and len(sweep.fields) > 1:
            size = f"{patch}/{covered}"
            yield f"{label}: E resizes its images to {size} of their side, so it does not compare at equal resolution."


def _baseline_notes(rows: Sequence[TableRow]) -> Iterator[str]:
    """Which baselines are not exceeded, and why an oracle exceeds all runs where it does."""
    by_baselines: dict[str, list[str]] = {}
    for row in rows:
        if row.baselines_not_exceeded:
            by_baselines.setdefault(", ".join(row.baselines_not_exceeded), []).append(row.label)
    for baselines, labels in by_baselines.items():  # one mark, one meaning: no need to name its bearers
        yield f"{DAGGER} {'' if len(by_baselines) == 1 else '; '.join(labels) + ': '}not above {baselines}."
    scores = [row.mean("psnr") for row in rows if row.kind == "run" and row.values.get("psnr")]
    oracles = [row.label for row in rows if row.kind == "oracle" and scores and row.mean("psnr") > max(scores)]
    for label in dict.fromkeys(label.partition(OF)[0] for label in oracles):
        yield f"The {label} {ORACLE}."


def _untrained(runs: Sequence[SweepRun]) -> str:
    """Whose weights are evaluated."""
    sources = []
    for run in runs:
        init = run.folder.spec()["init"] if (run.folder.path / "spec.json").is_file() else {}
        initialized = [_source(part, source) for part, source in init.items() if source != "scratch"]
        sources.append(f"{run.label} ({', '.join(initialized)})")
    return (
        f"Nothing was trained: {'; '.join(sources)}: given weights are evaluated as they are. Step time and memory are "
        "of training steps, so their cells are empty."
    )


def _source(part: str, source: Mapping[str, Any]) -> str:
    if "weights" in source:
        return f"{part} from {source['weights']}, sha256 {str(source['sha256'])[:12]}…"
    return f"{part} from run {source['run']}, {source['id']}"


def _data_notes(sweep: SweepResults, protocol: str, rows: Sequence[TableRow]) -> Iterator[str]:
    """The share of a step spent waiting for data, and what was skipped as broken."""
    if waits := [wait for row in rows for wait in row.values.get("data_wait_share", ())]:
        yield f"Waiting for data took {max(waits):.1%} of the training steps' time at most."
    trained = {defect["scene"] for run in sweep.runs for defect in (run.folder.scenes() or {}).get("broken", ())}
    evaluated = {defect["scene"] for _, e in _evaluations(sweep, protocol) for defect in e.get("broken", ())}
    for scenes, stage, file in (
        (trained, "training", "scenes.json"),
        (evaluated, "evaluation", f"evals/{protocol}.json"),
    ):
        if scenes:
            yield f"Skipped as broken in {stage}: {len(scenes)} scenes (named in the runs' {file})."
