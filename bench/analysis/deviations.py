"""How a sweep's runs differ from the paper's experiments: computed from their resolved specs, never typed.

`bench.analysis.paper` holds what the paper states (RECIPE, Tables 2 and 3). What it leaves open is compared with the base's own
spec at scale `paper`, which the sweep recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.analysis import paper

if TYPE_CHECKING:
    from bench.analysis.sweep_results import SweepRun
    from bench.report.notebook_api import SweepReport

WORDS = {"conv": "convolution", "croco": "pretrained MASt3R E", "linear": "linear + reshape", "dpt": "DPT head"}
PRETRAINED = ("croco",)  # encoders that the paper starts from MASt3R's weights
NOT_COMPARED = ("seed", "evaluation.", "data.root", "train.checkpoint_every", "train.keep", "train.micro_batch")
ASPECTS = ("scale", "data", "training", "initialization", "precision", "hardware")
COLUMNS = ["aspect", "setting", "paper", "here", "runs"]

Fields = Mapping[str, Any]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields → dotted ones."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def model_of(fields: Fields) -> paper.ComparedModel | None:
    """The model of Table 2 with the same E, A and D, whatever their sizes; None if the paper compares none such."""
    parts = [fields.get(f"model.{part}.name") for part in ("encoder", "aggregator", "head")]
    if parts[1] != "self_attention":
        return None
    words = WORDS.get(str(parts[0])), WORDS.get(str(parts[2]))
    return next((model for model in paper.TABLE_2 if (model.encoder, model.head) == words), None)


def frame(sweep: SweepReport) -> pd.DataFrame:
    """One row a setting that is not as the paper states it: aspect, setting, paper, here, runs ("all" or labels)."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for label, fields in sweep.specs.items():
        entries = sweep.read.groups()[label]
        for aspect, setting, stated, here in (*_scale(sweep), *_differences(fields), *_hardware(sweep, entries)):
            found.setdefault((aspect, setting, stated), {})[label] = here
    labels = list(sweep.specs)
    ordered = sorted(found.items(), key=lambda item: ASPECTS.index(item[0][0]))
    rows = [[*key, text, who] for key, told in ordered for text, who in group_by_value(told, labels)]
    return pd.DataFrame(rows, columns=COLUMNS)


def matched_settings(sweep: SweepReport) -> list[str]:
    """What every run does as the paper states it, in the paper's words."""
    specs = list(sweep.specs.values())
    return [item.words for item in paper.RECIPE if specs and all(f.get(item.field) == item.value for f in specs)]


def unspecified_by_paper(sweep: SweepReport) -> pd.DataFrame:
    """Fields on which the paper is silent and the runs leave their base's spec at scale `paper`: setting, base, here,
    runs. Empty for sweeps that recorded no base."""
    bases = {name: flat(spec) for name, spec in (sweep.read.sweep.get("bases") or {}).items()}
    stated = {item.field for item in paper.RECIPE}
    found: dict[tuple[str, str], dict[str, str]] = {}
    for label, fields in sweep.specs.items():
        base = bases.get(str(sweep.read.groups()[label][0].line.get("base")), {})
        told = stated | _told_elsewhere(fields, base)
        for key in [key for key in fields if base and not key.startswith(NOT_COMPARED) and key not in told]:
            if fields[key] != base.get(key):
                found.setdefault((key, text(base.get(key, "–"))), {})[label] = text(fields[key])
    rows = [[*key, *told] for key, here in found.items() for told in group_by_value(here, list(sweep.specs))]
    return pd.DataFrame(rows, columns=["setting", "base", "here", "runs"])


def paper_comparison(sweep: SweepReport) -> pd.DataFrame:
    """Settings by the paper's model with the same parts, in its order; then those that have none.

    Columns are (whose, what): the paper's numbers never stand in a column of ours.
    """
    table = sweep.table()
    ours = {str(row["label"]): row for row in table.to_dict("records") if row["kind"] == "run"}
    models = {label: model_of(fields) for label, fields in sweep.specs.items()}
    rows = []
    for result in (*paper.TABLE_3, None):
        name = result.model if result else None
        labels = [label for label, model in models.items() if (model.model if model else None) == name]
        for label in labels or ([""] if result else []):
            rows.append({("model", ""): name or "–", **_printed(result), **_ours(sweep.scale, label, ours.get(label))})
    return pd.DataFrame(rows)


def _printed(result: paper.Result | None) -> dict[tuple[str, str], Any]:
    names = ("psnr", "ssim", "lpips", "parameters_millions", "gpu_gb")
    return {("paper", name): getattr(result, name) if result else None for name in names}


def _ours(scale: str, label: str, row: Mapping[Any, Any] | None) -> dict[tuple[str, str], Any]:
    names = ("psnr", "ssim", "lpips_vgg", "lpips_alex", "parameters_total", "measured/reserved_peak_memory_gib")
    return {(scale, "setting"): label} | {(scale, name): None if row is None else row.get(name) for name in names}


def group_by_value(told: Mapping[str, str], labels: Sequence[str]) -> list[tuple[str, str]]:
    """label → text, as (text, "all" or the labels that share it)."""
    sharing: dict[str, list[str]] = {}
    for label, said in told.items():
        sharing.setdefault(said, []).append(label)
    return [(said, "all" if len(who) == len(labels) else "; ".join(who)) for said, who in sharing.items()]


def text(value: object) -> str:
    """A field's value as one writes it in a spec."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scale(sweep: SweepReport) -> Iterator[tuple[str, str, str, str]]:
    if sweep.scale != "paper":
        yield "scale", "scale", "the paper's own", sweep.scale


def _differences(fields: Fields) -> Iterator[tuple[str, str, str, str]]:
    """(aspect, setting, the paper's words, ours) of one setting."""
    for item in paper.RECIPE:
        if item.field in fields and fields[item.field] != item.value:
            yield item.aspect, item.field, f"{item.words} ({item.section})", _told(item.field, fields)
        elif item.field.startswith("losses.") and "train.batch" in fields and item.field not in fields:
            yield item.aspect, item.field, f"{item.words} ({item.section})", "without this term"
    if (model := model_of(fields)) is None:
        if "model.encoder.name" in fields:
            parts = ", ".join(str(fields[f"model.{part}.name"]) for part in ("encoder", "aggregator", "head"))
            yield "scale", "model", "compares no model with these parts (Table 2)", parts
        return
    for key, value in (("model.aggregator.blocks", model.blocks), ("model.encoder.patch", model.patch)):
        if key in fields and fields[key] != value:
            yield "scale", key, f"{value} in {model.model} (Table 2)", text(fields[key])
    yield from _initialization(fields, model)


def _initialization(fields: Fields, model: paper.ComparedModel) -> Iterator[tuple[str, str, str, str]]:
    """A whole model that was given, or an encoder that is not what Table 2 starts from."""
    given = {key: fields[key] for key in fields if key in ("init.model.weights", "init.model.run", "init.encoder.run")}
    for key, source in given.items():
        yield "initialization", key.rpartition(".")[0], f"{model.encoder} (Table 2)", f"from {source}"
    untrained = fields.get("model.encoder.name") in PRETRAINED and fields.get("init.encoder") == "scratch"
    if untrained and not given:
        yield "initialization", "init.encoder", f"{model.encoder} (Table 2)", "from scratch"


def _told(key: str, fields: Fields) -> str:
    if key == "data.name":
        counts = {split: fields.get(f"data.{split}_scenes") for split in ("training", "evaluation")}
        known = [f"{count:,} {split}" for split, count in counts.items() if isinstance(count, int)]
        return f"{fields[key]}: {' and '.join(known)} scenes" if known else str(fields[key])
    return text(fields[key])


def _hardware(sweep: SweepReport, entries: Sequence[SweepRun]) -> Iterator[tuple[str, str, str, str]]:
    """The device that measured the first seed, or the sweep's."""
    profile: Mapping[str, Any] = next((p for e in entries for p in e.folder.profiles().values()), {})
    recorded = [record for e in entries for record in e.provenance.values()] + [sweep.read.environment]
    name = profile.get("device") or next((r["device_name"] for r in recorded if r.get("device_name")), None)
    if name and "A100" not in name:
        yield "hardware", "hardware", f"{paper.HARDWARE} (§3.2)", f"{profile.get('world', 1)} × {name}"


def _told_elsewhere(fields: Fields, base: Fields) -> set[str]:
    """Fields of Table 2, and those of another data set, which mean nothing in the base's."""
    table_2 = {"model.aggregator.blocks", "model.encoder.patch", "init.encoder"} if model_of(fields) else set()
    other = {key for key in fields if key.startswith("data.") and fields["data.name"] != base.get("data.name")}
    return table_2 | other
