"""How a sweep's runs differ from the paper's experiments: computed from their resolved specs, never typed.

`bench.analysis.paper` holds what the paper states (RECIPE, Tables 2 and 3). What it leaves open is compared with the
base's own spec at scale `paper`, which the sweep recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bench.analysis import paper
from bench.analysis.sweep_results import SweepResults, SweepRun, flatten

PAPER_TERMS = {"conv": "convolution", "croco": "pretrained MASt3R E", "linear": "linear + reshape", "dpt": "DPT head"}
PRETRAINED = ("croco",)  # encoders that the paper starts from MASt3R's weights
NOT_COMPARED = ("seed", "evaluation.", "data.root", "train.checkpoint_every", "train.keep", "train.micro_batch",
                "train.recompute.", "train.views_at_once", "train.head_views", "train.shard", "train.fused_qkv",
                "train.regime", "study")  # fmt: skip
ASPECTS = ("scale", "data", "training", "initialization", "precision", "hardware")
COLUMNS = ["aspect", "setting", "paper", "here", "runs"]

Fields = Mapping[str, Any]


class Deviation(NamedTuple):
    """One setting of one run that is not the paper's: the paper's words and the run's value."""

    aspect: str
    setting: str
    paper: str
    here: str


def model_of(fields: Fields) -> paper.ComparedModel | None:
    """The model of Table 2 with the same E, A and D, whatever their sizes; None if the paper compares none such."""
    parts = [fields.get(f"model.{part}.name") for part in ("encoder", "aggregator", "head")]
    if parts[1] != "self_attention":
        return None
    terms = PAPER_TERMS.get(str(parts[0])), PAPER_TERMS.get(str(parts[2]))
    return next((model for model in paper.TABLE_2 if (model.encoder, model.head) == terms), None)


def frame(sweep: SweepResults) -> pd.DataFrame:
    """One row a setting that is not as the paper states it: aspect, setting, paper, here, runs ("all" or labels)."""
    by_setting: dict[tuple[str, str, str], dict[str, str]] = {}
    for label, fields in sweep.fields.items():
        for deviation in (*_scale(sweep), *_differences(fields), *_hardware(sweep, sweep.groups()[label])):
            by_setting.setdefault(deviation[:3], {})[label] = deviation.here
    ordered = sorted(by_setting.items(), key=lambda item: ASPECTS.index(item[0][0]))
    rows = [[*key, value, runs] for key, here in ordered for value, runs in group_by_value(here, list(sweep.fields))]
    return pd.DataFrame(rows, columns=COLUMNS)


def matched_settings(sweep: SweepResults) -> list[str]:
    """What every run does as the paper states it, in the paper's words."""
    specs = list(sweep.fields.values())
    return [item.words for item in paper.RECIPE if specs and all(f.get(item.field) == item.value for f in specs)]


def unspecified_by_paper(sweep: SweepResults) -> pd.DataFrame:
    """Fields on which the paper is silent and the runs leave their base's spec at scale `paper`: setting, base, here,
    runs. Empty for sweeps that recorded no base."""
    bases = {name: flatten(spec) for name, spec in (sweep.sweep.get("bases") or {}).items()}
    stated = {item.field for item in paper.RECIPE}
    by_setting: dict[tuple[str, str], dict[str, str]] = {}
    for label, fields in sweep.fields.items():
        base = bases.get(str(sweep.groups()[label][0].line.get("base")), {})
        covered = stated | _covered_elsewhere(fields, base)
        for key in [key for key in fields if base and not key.startswith(NOT_COMPARED) and key not in covered]:
            if fields[key] != base.get(key):
                by_setting.setdefault((key, format_value(base.get(key, "–"))), {})[label] = format_value(fields[key])
    rows = [[*key, *row] for key, here in by_setting.items() for row in group_by_value(here, list(sweep.fields))]
    return pd.DataFrame(rows, columns=["setting", "base", "here", "runs"])


def paper_comparison(sweep: SweepResults, table: pd.DataFrame) -> pd.DataFrame:
    """Settings of a result table (bench.analysis.tables.frame) by the paper's model with the same parts, in its order;
    then those that have none.

    Columns are (source, quantity): the paper's numbers never stand in a column of ours.
    """
    ours = {str(row["label"]): row for row in table.to_dict("records") if row["kind"] == "run"}
    models = {label: model_of(fields) for label, fields in sweep.fields.items()}
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


def group_by_value(values: Mapping[str, str], labels: Iterable[str]) -> list[tuple[str, str]]:
    """label → value, as (value, "all" or the labels that share it)."""
    sharing: dict[str, list[str]] = {}
    for label, value in values.items():
        sharing.setdefault(value, []).append(label)
    count = len(list(labels))
    return [(value, "all" if len(group) == count else "; ".join(group)) for value, group in sharing.items()]


def format_value(value: object) -> str:
    """A field's value as one writes it in a spec; of a part its name, then its fields."""
    if isinstance(value, Mapping):
        fields = ", ".join(f"{key} {format_value(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({fields})" if "name" in value else fields
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _scale(sweep: SweepResults) -> Iterator[Deviation]:
    if sweep.scale != "paper":
        yield Deviation("scale", "scale", "the paper's own", sweep.scale)


def _differences(fields: Fields) -> Iterator[Deviation]:
    """Of one setting, without its hardware."""
    for item in paper.RECIPE:
        stated = f"{item.words} ({item.section})"
        if item.field in fields and fields[item.field] != item.value:
            yield Deviation(item.aspect, item.field, stated, _describe(item.field, fields))
        elif item.field.startswith("losses.") and "train.batch" in fields and item.field not in fields:
            yield Deviation(item.aspect, item.field, stated, "without this term")
    if (model := model_of(fields)) is None:
        if "model.encoder.name" in fields:
            parts = ", ".join(str(fields[f"model.{part}.name"]) for part in ("encoder", "aggregator", "head"))
            yield Deviation("scale", "model", "compares no model with these parts (Table 2)", parts)
        return
    for key, value in (("model.aggregator.blocks", model.blocks), ("model.encoder.patch", model.patch)):
        if key in fields and fields[key] != value:
            yield Deviation("scale", key, f"{value} in {model.model} (Table 2)", format_value(fields[key]))
    yield from initialization(fields, model)


def initialization(fields: Fields, model: paper.ComparedModel) -> Iterator[Deviation]:
    """Given weights of a whole model, or an encoder that does not start from Table 2's weights. A file of the user's is
    taken to be that."""
    whole, encoder = fields.get("init.model") or "scratch", str(fields.get("init.encoder", ""))
    if whole != "scratch":
        yield Deviation("initialization", "init.model", f"{model.encoder} (Table 2)", f"from {whole}")
    elif encoder.startswith(("run ", "shipped ")) or (
        encoder == "scratch" and fields.get("model.encoder.name") in PRETRAINED
    ):
        yield Deviation("initialization", "init.encoder", f"{model.encoder} (Table 2)", f"from {encoder}")


def _describe(key: str, fields: Fields) -> str:
    """A field's value; of the data set with its numbers of scenes."""
    if key == "data.name":
        counts = {split: fields.get(f"data.{split}_scenes") for split in ("training", "evaluation")}
        known = [f"{count:,} {split}" for split, count in counts.items() if isinstance(count, int)]
        return f"{fields[key]}: {' and '.join(known)} scenes" if known else str(fields[key])
    return format_value(fields[key])


def _hardware(sweep: SweepResults, runs: Sequence[SweepRun]) -> Iterator[Deviation]:
    """The device that measured the first seed, or the sweep's."""
    profile: Mapping[str, Any] = next((p for run in runs for p in run.folder.profiles().values()), {})
    recorded = [record for run in runs for record in run.provenance.values()] + [sweep.environment]
    name = profile.get("device") or next((r["device_name"] for r in recorded if r.get("device_name")), None)
    if name and "A100" not in name:
        here = f"{profile.get('world', 1)} × {name}"
        yield Deviation("hardware", "hardware", f"{paper.HARDWARE} (§3.2)", here)


def _covered_elsewhere(fields: Fields, base: Fields) -> set[str]:
    """Fields of Table 2, and those of another data set, which mean nothing in the base's."""
    table_2 = {"model.aggregator.blocks", "model.encoder.patch", "init.encoder"} if model_of(fields) else set()
    other = {key for key in fields if key.startswith("data.") and fields["data.name"] != base.get("data.name")}
    return table_2 | other
