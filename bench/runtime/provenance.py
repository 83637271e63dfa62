"""Which code, machine and settings produced a result: every stage's JSON has its own record, under "provenance".

Local changes are tracked files that differ from the commit, and untracked files of code and specs: a part or spec that
was never committed cannot be reproduced from the commit.
"""

from __future__ import annotations

import difflib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.common.environment import cores, device_name
from bench.common.json_files import read_json
from bench.common.paths import SNAPSHOT, SOURCE
from bench.runtime import lpips_weights

if TYPE_CHECKING:
    import torch

    from models.ead import Precision

CODE_FOLDERS = ("bench", "models", "ablations")
CODE_SUFFIXES = {".py", ".yaml", ".yml", ".cpp"}
PACKAGES = ("numpy", "lpips", "gsplat")  # beside torch, those that compute results
DIFF_LIMIT = 200_000  # characters of a sweep's record of its code
SpecFileState = Literal["committed", "changed", "untracked", "outside the repository"]


def of_stage(precision: Precision, device: torch.device) -> dict[str, Any]:
    """The record of a stage that begins now, ready for JSON; `precision`: of the model's parts.

    Call it after `bench.runtime.numerics.configure`.
    """
    from bench.runtime.numerics import precision_settings

    return of_process(device) | {"precision": precision_settings() | {"autocast": asdict(precision)}}


def of_sweep(spec_file: Path, device: torch.device, threads: int) -> dict[str, Any]:
    """The record of the command that runs or submits a sweep.

    A spec file that is changed or not committed counts as a local change.
    """
    record, state = of_process(device, threads), spec_file_state(spec_file)
    name = _relative(spec_file)
    if state not in ("committed", None) and name not in record["local_changes"]:
        record["local_changes"].append(name)
    return record | {"spec_file": state}


def of_process(device: torch.device, threads: int | None = None) -> dict[str, Any]:
    """Time, commit, versions and hardware, ready for JSON; `threads`: CPU threads, default those of this process."""
    import torch

    commit, local_changes = source_version()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "local_changes": local_changes,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "device": str(device),
        "device_name": device_name(device),
        "processor": device_name(torch.device("cpu")),
        "cores": cores(),
        "threads": threads or torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "lpips_sha256": {net: lpips_weights.SHA256[net] if lpips_weights.backbone_available(net) else None
                         for net in lpips_weights.NETS},
    }  # fmt: skip


def source_version(source: Path = SOURCE) -> tuple[str | None, list[str]]:
    """(git commit, changed and untracked files); (None, []) outside a repository."""
    if (source / SNAPSHOT).is_file():
        snapshot = read_json(source / SNAPSHOT)
        return snapshot["commit"], list(snapshot["changed"])
    head = _git(source, "rev-parse", "HEAD")
    changed = _git(source, "diff", "--name-only", "-z", "--no-renames", "--relative", "HEAD")
    others = _git(source, "ls-files", "-z", "--others", "--", *CODE_FOLDERS)  # also those that .gitignore names
    if head is None or changed is None or others is None:
        return None, []
    new = [name for name in others.split("\0") if Path(name).suffix in CODE_SUFFIXES]
    return head.strip(), sorted({*filter(None, changed.split("\0")), *new})


def code_diff(source: Path = SOURCE) -> str | None:
    """How the code differs from its commit, new files included, as a unified diff of at most DIFF_LIMIT characters;
    None outside a repository."""
    text = _git(source, "diff", "--no-renames", "--no-color", "--no-ext-diff", "--relative", "HEAD")
    tracked = _git(source, "ls-files", "-z")
    if text is None or tracked is None:
        return None
    for name in set(source_version(source)[1]) - set(tracked.split("\0")):
        lines = (source / name).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        text += "".join(difflib.unified_diff([], lines, "/dev/null", f"b/{name}"))
    cut = len(text) - DIFF_LIMIT
    return text if cut <= 0 else f"{text[:DIFF_LIMIT]}\n({cut:,} more characters)\n"


def spec_file_state(path: Path, source: Path = SOURCE) -> SpecFileState | None:
    """The state of a spec file relative to the source's commit; None outside a repository."""
    commit, changed = source_version(source)
    if commit is None:
        return None
    if not path.resolve().is_relative_to(source.resolve()):
        return "outside the repository"
    name = _relative(path, source)
    if not (source / SNAPSHOT).is_file() and not _git(source, "ls-files", "--", name):
        return "untracked"
    return "changed" if name in changed else "committed"


def commit_label(provenance: Mapping[str, Any]) -> str:
    """The commit's first 12 digits, followed by "+" if there were local changes; empty if no commit was recorded."""
    commit = provenance.get("commit") or ""
    local = provenance.get("local_changes") or commit.endswith("+")  # records of older versions
    return commit[:12] + "+" * bool(commit and local)


def commit_labels(provenance: Mapping[str, Any]) -> list[str]:
    """Of every session of a resumed training; else of the record itself."""
    labels = map(commit_label, provenance.get("sessions") or [provenance])
    return [label for label in dict.fromkeys(labels) if label]


def by_commit(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """{run: {stage: provenance}} → {commit label: what was computed at it}.

    Results are "RUN", or "RUN: STAGE" of a run whose stages have different commits; "all runs: STAGE" if that is so in
    each.
    """
    results: dict[str, list[str]] = {}
    labels = {
        run: {stage: commit_labels(provenance) for stage, provenance in stages.items()} for run, stages in runs.items()
    }
    single = {run: len({label for several in of.values() for label in several}) == 1 for run, of in labels.items()}
    alike = len(runs) > 1 and not any(single.values())
    for run, of in labels.items():
        for stage, several in of.items():
            common = alike and all(other.get(stage) == several for other in labels.values())
            for label in several:
                result = run if single[run] else f"{'all runs' if common else run}: {stage}"
                results.setdefault(label, [])
                if result not in results[label]:
                    results[label].append(result)
    return results


def _relative(path: Path, source: Path = SOURCE) -> str:
    """Relative to the source, as git prints it; absolute outside the source."""
    path, source = path.resolve(), source.resolve()
    return path.relative_to(source).as_posix() if path.is_relative_to(source) else str(path)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(source: Path, *arguments: str) -> str | None:
    """Output of a git command; None without git or outside a repository."""
    try:
        return subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
