"""Short names of runs, which say only what differs; and the name of a sweep's folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bench.config.spec_fields import slot_of

LONGEST_FOLDER = 96


def label_settings(
    told: Sequence[Mapping[str, Any]], names: Sequence[str | None], bases: Sequence[str], spec: str
) -> list[str]:
    """One label a run, from its swept settings, the name that the spec gives it and its base; a part's own fields are
    told where its name is not enough."""
    keys = list(dict.fromkeys(key for settings in told for key in settings))
    varying = [key for key in keys if len({repr(settings.get(key)) for settings in told}) > 1]
    clear = _clear(varying)
    made: list[str] = []
    for fully in (False, True):
        made = []
        for settings, name, base in zip(told, names, bases, strict=True):
            first = name or (base if len(set(bases)) > 1 else None)
            said = [_say(key, clear[key], settings[key], fully) for key in varying if key in settings]
            made.append(", ".join(([first] if first else []) + said) or spec)
        if len(set(made)) == len(made):
            break
    return made


def _clear(keys: Sequence[str]) -> dict[str, str]:
    """The fewest last words that tell the keys apart; none for the only `init` among them."""
    inits = [key for key in keys if key.startswith("init.") and slot_of(key) == key]
    rest = [key for key in keys if key not in inits]
    endings = [_words(key)[-1] for key in rest] + ["seed"]  # the training seed's, whether it varies or not
    clear = {
        key: " ".join(_words(key)[-2:] if endings.count(_words(key)[-1]) > 1 else _words(key)[-1:]) for key in rest
    }
    return clear | {key: _words(key)[-1] if len(inits) > 1 else "" for key in inits}


def _words(key: str) -> list[str]:
    return key.replace("_", " ").split(".")


def _say(key: str, words: str, value: Any, fully: bool) -> str:
    choice = slot_of(key)
    if key == choice and key.startswith("init."):
        source = "scratch" if value == "scratch" else "weights" if "weights" in value else str(value.get("run"))
        return f"{words} from {source}".strip()
    if key == choice and not key.startswith("losses."):
        fields = value if isinstance(value, dict) else {"name": value}
        rest = {field: value for field, value in fields.items() if field != "name"} if fully else {}
        told = [_say(f"{key}.{field}", field.replace("_", " "), v, fully) for field, v in rest.items()]
        return " ".join([str(fields.get("name", words)), *told])
    if value is None or value is False:
        return f"no {words}"
    if value is True:
        return words
    if isinstance(value, int | float) and words.endswith("s") and not words.endswith("ss"):
        return f"{value} {words[:-1] if value == 1 else words}"
    return f"{words} {_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_short(item)}" for key, item in value.items())
    return "-".join(_short(item) for item in value) if isinstance(value, list) else str(value)


def folder_name(spec: str, scale: str, overrides: Sequence[str]) -> str:
    """`<spec>_<scale>[_<overrides>]`, fit for any file system; the same whatever order the overrides come in."""
    last = {override.partition("=")[0]: override for override in overrides}  # of a field given twice the later counts
    parts = [spec, scale, *(re.sub(r"[^A-Za-z0-9.=+-]+", "-", last[key]).strip("-.") for key in sorted(last))]
    name = "_".join(parts)
    if len(name) <= LONGEST_FOLDER:
        return name
    return f"{name[: LONGEST_FOLDER - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
