"""Short names of runs, which say only what differs; and the name of a sweep's folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bench.config.spec_fields import slot_of

LONGEST_FOLDER = 80  # characters


def label_settings(
    settings: Sequence[Mapping[str, Any]], names: Sequence[str | None], bases: Sequence[str], spec: str
) -> list[str]:
    """One label a run, from its swept settings, the name that the spec gives it and its base; a part's own fields
    stand in it where the part's name is not enough."""
    keys = list(dict.fromkeys(key for run in settings for key in run))
    varying = [key for key in keys if len({repr(run.get(key)) for run in settings}) > 1]
    short = _short_names(varying)
    labels: list[str] = []
    for with_fields in (False, True):
        labels = []
        for run, name, base in zip(settings, names, bases, strict=True):
            first = name or (base if len(set(bases)) > 1 else None)
            rest = [_format_setting(key, short[key], run[key], with_fields) for key in varying if key in run]
            labels.append(", ".join(([first] if first else []) + rest) or spec)
        if len(set(labels)) == len(labels):
            break
    return labels


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The fewest last words that distinguish the keys; none for the only `init` among them."""
    words = {key: key.replace("_", " ").split(".") for key in keys}
    inits = [key for key in keys if key.startswith("init.") and slot_of(key) == key]
    rest = [key for key in keys if key not in inits]
    endings = [words[key][-1] for key in rest] + ["seed"]  # the training seed's, whether it varies or not
    short = {key: " ".join(words[key][-2:] if endings.count(words[key][-1]) > 1 else words[key][-1:]) for key in rest}
    return short | {key: words[key][-1] if len(inits) > 1 else "" for key in inits}


def _format_setting(key: str, words: str, value: Any, with_fields: bool) -> str:
    choice = slot_of(key)
    if key == choice and key.startswith("init."):
        source = "scratch" if value == "scratch" else "weights" if "weights" in value else str(value.get("run"))
        return f"{words} from {source}".strip()
    if key == choice and not key.startswith("losses."):
        fields = value if isinstance(value, dict) else {"name": value}
        own = {field: value for field, value in fields.items() if field != "name"} if with_fields else {}
        rest = [_format_setting(f"{key}.{field}", field.replace("_", " "), v, with_fields) for field, v in own.items()]
        return " ".join([str(fields.get("name", words)), *rest])
    if value is None or value is False:
        return f"no {words}"
    if value is True:
        return words
    if isinstance(value, int | float) and words.endswith("s") and not words.endswith("ss"):
        return f"{value} {words[:-1] if value == 1 else words}"
    return f"{words} {_format_value(value)}"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_format_value(item)}" for key, item in value.items())
    return "-".join(_format_value(item) for item in value) if isinstance(value, list) else str(value)


def folder_name(spec: str, scale: str, overrides: Sequence[str]) -> str:
    """`<spec>_<scale>[_<overrides>]`, fit for any file system; the same whatever order the overrides come in.

    Paths and checksums are left out (another place for the same data is no other question), but for the last component
    of `data.root`. A name that had to be shortened or changed ends with a hash.
    """
    last = dict(override.partition("=")[::2] for override in overrides)  # of a field given twice the later counts
    parts = [spec, scale]
    for key in sorted(last):
        if key == "data.root":
            parts.append(f"{key}={PurePath(last[key]).name}")
        elif not re.search(r"\b(weights|sha256|evaluation_root|scene_list)\b", f"{key}={last[key]}"):
            parts.append(f"{key}={last[key]}")
    name = "_".join(parts)
    safe = re.sub(r"[^A-Za-z0-9._=+-]+", "-", name).strip("-.")
    if safe == name and len(name) <= LONGEST_FOLDER:
        return name
    return f"{safe[: LONGEST_FOLDER - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
