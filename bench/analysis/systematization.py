"""The paper's Table 1 with what was measured beside it: E, A, D, what is known and the output, in words of the specs.

Words are the paper's where a part is one that the paper has; what the paper prints otherwise stands in footnotes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bench.analysis import paper, remarks
from bench.analysis.formatting import ARROWS, HEADINGS, PARAMETERS, FormattedTable, format_number, markdown, millions
from bench.analysis.sweep_results import SweepResults, SweepRun, protocol_metrics
from bench.analysis.table_rows import TableRow, table_rows

Fields = Mapping[str, Any]
NAMED_BY = ("model.inputs", "model.poses", "model.intrinsics", "model.output.name", "model.aggregator.name")
ENCODERS = {"conv": "convolution", "croco": "CroCo", "dino": "DINO", "cnn": "CNN"}
AGGREGATORS = {
    "cross_attention": "cross-attention between two views",
    "self_attention": "self-attention over all views",
    "alternating": "attention within the view and over all views in turn",
    "latents": "latent tokens that read all views",
}
HEADS = {"linear": "linear + reshape", "dpt": "DPT head", "dpt_groups": "DPT head", "deconvolution": "deconvolution",
         "conv_up": "transposed convolutions"}  # fmt: skip
OUTPUTS = {
    "pointmap": "points P", "triplane": "θ (NeRF)", "pixels": "pixels", "set_gaussians": "Gaussians of no pixel",
    **dict.fromkeys(("gaussians", "gslrm", "splatt3r", "noposplat"), "Gaussians G"),
}  # fmt: skip
SLOTS = ("E", "A", "D", "output")
PROPOSED = "ours2"  # the base of the paper's last row
PUBLIC_CODE = {"lrm": "LRM follows its public code (DINO's tokens as E, plane tokens as A)"}
TRIVIAL = {"psnr": "mean", "point_error": "constant", "completion_error": "patch_mean"}  # metric → baseline of its kind
MARK = "‡"  # of rows that the paper's table prints otherwise
BASELINE, COMPARABLE = "Trivial baseline", "Not comparable in"


class Row(NamedTuple):
    """One line of Table 1 in words; `differences`: (slot, the paper's words, these) where they are others."""

    inputs: str
    poses: str
    E: str
    A: str
    D: str
    output: str
    differences: Sequence[tuple[str, str, str]]


def applies(sweep: SweepResults) -> bool:
    """Whether the sweep compares rows of the table: models that differ in what goes in, in A or in what comes out."""
    return any(len({str(fields.get(name)) for fields in sweep.fields.values()}) > 1 for name in NAMED_BY)


def describe(fields: Fields, base: str | None) -> Row:
    """A model's line, from its resolved spec; `base` names the paper's line that it is compared with."""
    inputs = str(fields.get("model.inputs") or "N")
    known = "known" if fields.get("model.poses") == "known" else "unknown"
    known += " (intrinsics known)" if fields.get("model.intrinsics") == "known" else ""
    words = {
        "E": _encoder(fields),
        "A": _aggregator(fields),
        "D": HEADS.get(str(fields["model.head.name"]), str(fields["model.head.name"])),
        "output": OUTPUTS.get(str(fields["model.output.name"]), str(fields["model.output.name"])),
    }
    printed = printed_row(base)
    theirs = {} if printed is None else dict(
        zip(SLOTS, (printed.encoder, printed.aggregator, printed.head, printed.output), strict=True)
    )  # fmt: skip
    differences = [(slot, theirs[slot], words[slot]) for slot in theirs if theirs[slot] != words[slot]]
    return Row(inputs, known, **words, differences=differences)


def printed_row(base: str | None) -> paper.TaxonomyRow | None:
    """The paper's line of a base: `gs_lrm` is GS-LRM's, `ours2` the proposed model's."""
    names = {model.lower().replace("-", "_"): row for row in paper.TABLE_1 for model in row.models}
    return names.get("proposed" if base == PROPOSED else str(base))


def build(sweep: SweepResults, protocol: str) -> FormattedTable | None:
    """None for a sweep that compares no rows of the table, or whose specs are not recorded."""
    if not all("model.encoder.name" in fields for fields in sweep.fields.values()) or not applies(sweep):
        return None
    bases = {label: runs[0].line.get("base") for label, runs in sweep.groups().items()}
    described = {label: describe(fields, bases[label]) for label, fields in sweep.fields.items()}
    metrics = [m for m in protocol_metrics(sweep, protocol) if m["better"] != "none" and m["name"] != "lpips_alex"]
    rows = {row.label: row for row in table_rows(sweep, protocol) if row.kind == "run"}
    reference = next((f for label, f in sweep.fields.items() if bases[label] == PROPOSED), None)
    lines = []
    for label, row in described.items():
        line = {"": label + (f" {MARK}" if row.differences else ""), "Inputs": row.inputs, "Poses": row.poses}
        line |= {"E": row.E, "A": row.A, "D": row.D, "Output": row.output}
        line |= _measured(rows[label], sweep.groups()[label], metrics)
        line[BASELINE] = against_baseline(rows[label], sweep.groups()[label], protocol)
        line[COMPARABLE] = ", ".join(_incomparable(sweep.fields[label], reference or next(iter(sweep.fields.values()))))
        lines.append(line)
    cells = pd.DataFrame(lines)
    texts = ("", "Inputs", "Poses", "E", "A", "D", "Output", BASELINE, COMPARABLE)
    title = f"Table 1 of the paper, as run: {remarks.caption(sweep, protocol)}"
    notes = [*_footnotes(described, bases), *_definitions()]
    return FormattedTable(title, cells.loc[:, (cells != "").any()], notes, remarks.definitions(sweep, metrics), texts)


def render(sweep: SweepResults, protocol: str) -> dict[str, str]:
    """{"csv", "md"}: the table's text in each format; empty where it does not apply."""
    table = build(sweep, protocol)
    return {} if table is None else {"csv": table.cells.to_csv(index=False), "md": markdown(table)}


def _encoder(fields: Fields) -> str:
    name = str(fields["model.encoder.name"])
    word = ENCODERS.get(name, name) + ("v2" if fields.get("model.encoder.version") == "dinov2" else "")
    if name == "conv":
        return f"{word} of images and rays" if fields.get("model.encoder.rays") else word
    sources = (str(fields.get(f"init.{part}", "scratch")) for part in ("encoder", "model"))
    source = next((source for source in sources if source != "scratch"), "")
    if "MASt3R" in source:
        return "pretrained MASt3R E"
    if source.startswith("shipped "):
        return f"{word}, pretrained ({source.removeprefix('shipped ')}, shipped)"
    return f"pretrained {word}" if source else f"{word}, from scratch"


def _aggregator(fields: Fields) -> str:
    name = str(fields["model.aggregator.name"])
    if name == "self_attention" and fields.get("model.aggregator.scope") == "view":
        return "self-attention within the view"
    if name == "triplane_tokens":
        reads = {"cross_attention": "plane tokens that read the view by cross-attention",
                 "self_attention": "self-attention over all views and plane tokens"}  # fmt: skip
        return reads[str(fields["model.aggregator.reads"])]
    return AGGREGATORS.get(name, name)


def _measured(row: TableRow, runs: Sequence[SweepRun], metrics: Sequence[Mapping[str, str]]) -> dict[str, str]:
    tokens = runs[0].line.get("tokens_per_scene")
    line = {PARAMETERS: millions((row.parameters or {}).get("total")), "Tokens": f"{tokens:,}" if tokens else ""}
    line |= {HEADINGS[name]: format_number(name, row.mean(name)) for name in ("forward_gflop", "step_time_ms")}
    for metric in metrics:
        line[metric["heading"] + ARROWS[metric["better"]]] = format_number(metric["name"], row.mean(metric["name"]))
    return line


def against_baseline(row: TableRow, runs: Sequence[SweepRun], protocol: str) -> str:
    """Whether the row beats the trivial baseline of its kind, and the baseline's value; empty without an evaluation."""
    name = next((metric for metric in TRIVIAL if row.values.get(metric)), None)
    evaluation = next((e for run in runs if (e := run.folder.evaluations().get(protocol))), None)
    if name is None or evaluation is None or (baseline := evaluation["baselines"].get(TRIVIAL[name])) is None:
        return ""
    value, metrics = baseline["means"][name], {m["name"]: m for m in evaluation["protocol"]["metrics"]}
    beaten = row.mean(name) > value if metrics[name]["better"] == "higher" else row.mean(name) < value
    heading = metrics[name]["heading"]
    return f"{'beaten' if beaten else 'NOT beaten'}: {baseline['label']}, {heading} {format_number(name, value)}"


def _incomparable(fields: Fields, reference: Fields) -> Iterator[str]:
    """What keeps a row's quality from being compared with the proposed model's."""
    if fields.get("views.inputs") != reference.get("views.inputs"):
        count = fields.get("views.inputs")
        yield f"{count} input view{'s' if count != 1 else ''}"
    for name in ("poses", "intrinsics"):
        if fields.get(f"model.{name}") == "known":
            yield f"{name} known"
    if fields.get("model.image_size") != reference.get("model.image_size"):
        yield f"images of {fields.get('model.image_size')} px"
    patch, image_patch = fields.get("model.encoder.patch"), fields.get("model.encoder.image_patch")
    if image_patch and image_patch != patch:
        yield f"images resized to {patch}/{image_patch} inside E"
    if fields.get("views.choice.name") != reference.get("views.choice.name"):
        yield "other views"


def _footnotes(described: Mapping[str, Row], bases: Mapping[str, str | None]) -> Iterator[str]:
    """What the paper's table prints otherwise, alike ones together; then why."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for label, row in described.items():
        for difference in row.differences:
            groups.setdefault(difference, []).append(label)
    for (slot, printed, here), labels in groups.items():
        yield f"{MARK} {'; '.join(labels)}: as {slot} the paper prints {printed}, here it is {here}."
    yield from (f"{MARK} {PUBLIC_CODE[base]}." for base in dict.fromkeys(bases.values()) if base in PUBLIC_CODE)
    if others := [label for label, base in bases.items() if printed_row(base) is None]:
        yield f"Not in the paper's table: {'; '.join(others)}."


def _definitions() -> Iterator[str]:
    yield (
        f"{BASELINE}: of its kind: the mean of the inputs (PSNR) where pictures are rendered, the best constant point "
        "(point error) for pointmaps, the mean of each hidden patch (completion error) for completed images."
    )
    yield f"{COMPARABLE}: what a row is given that the proposed model is not, or the other way round; empty: nothing."
