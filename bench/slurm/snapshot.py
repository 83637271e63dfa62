"""The source as it is at submission, kept for the jobs: later edits in the checkout do not reach them.

results/code/<digest>/ holds the packages and the questions, and snapshot.json (bench.common.paths.SNAPSHOT) with the commit,
what differs from it, and code.diff. Equal sources share a snapshot.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.common.files import atomic_write
from bench.common.json_files import read_json, write_json
from bench.common.paths import SNAPSHOT, SOURCE

PARTS = ("bench", "models", "ablations")  # what a run needs of the checkout
DIFF = "code.diff"


@dataclass(frozen=True)
class Snapshot:
    """What was frozen; `commit` is None outside a git checkout."""

    digest: str
    commit: str | None
    changed: tuple[str, ...]  # tracked files that differ from the commit, and new ones

    @property
    def label(self) -> str:
        """ "commit 1d451cf, with 2 files changed: bench/run.py, …"."""
        told = f"commit {self.commit[:7]}" if self.commit else "no git commit"
        if not self.changed:
            return told
        names = ", ".join(self.changed[:3]) + (", …" if len(self.changed) > 3 else "")
        return f"{told}, with {len(self.changed)} file{'s' * (len(self.changed) > 1)} changed: {names}"


def describe_source(source: Path = SOURCE) -> Snapshot:
    """What a snapshot taken now would hold; nothing is written."""
    if (source / SNAPSHOT).is_file():  # a job submits: the snapshot it runs from
        kept = read_json(source / SNAPSHOT)
        return Snapshot(kept["digest"], kept["commit"], tuple(kept["changed"]))
    digest = hashlib.sha256()
    for path in _files(source):
        digest.update(f"{path.relative_to(source)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    head = (_git(source, "rev-parse", "HEAD") or "").strip() or None
    status = _git(source, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *PARTS) or ""
    changed = tuple(entry[3:] for entry in status.split("\0") if entry) if head else ()
    digest.update(repr((head, changed)).encode())
    return Snapshot(digest.hexdigest()[:12], head, changed)


def take_snapshot(results: Path, source: Path = SOURCE) -> tuple[Snapshot, Path]:
    """The snapshot and its folder, made unless it is there already."""
    found = describe_source(source)
    folder = (results / "code" / found.digest).resolve()
    if (source / SNAPSHOT).is_file():
        return found, source
    if not (folder / SNAPSHOT).is_file():
        atomic_write(folder, lambda made: _copy(source, made, found))
    return found, folder


def _copy(source: Path, target: Path, found: Snapshot) -> None:
    for path in _files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (target / DIFF).write_text(_diff(source, found) if found.commit else "", encoding="utf-8")
    write_json(target / SNAPSHOT, asdict(found))


def _diff(source: Path, found: Snapshot) -> str:
    """Against the commit; `git apply` gives the same source again."""
    tracked = _git(source, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *PARTS) or ""
    known = set((_git(source, "ls-files", "-z", "--", *PARTS) or "").split("\0"))
    new = [
        _git(source, "diff", "--binary", "--no-ext-diff", "--no-color", "--no-index", "--", "/dev/null", name) or ""
        for name in found.changed
        if name not in known and (source / name).is_file()
    ]
    return tracked + "".join(new)


def _files(source: Path) -> Iterator[Path]:
    """Of a checkout what git tracks or would, else everything but caches; in order."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS)
    if listed is not None:
        names = sorted(set(filter(None, listed.split("\0"))))
        yield from (path for name in names if (path := source / name).is_file())
        return
    for part in PARTS:
        for path in sorted((source / part).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _git(source: Path, *words: str) -> str | None:
    """Its output; None where there is no git or no checkout of ours."""
    try:
        top = subprocess.run(["git", "-C", str(source), "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        if top.returncode or Path(top.stdout.strip()).resolve() != source.resolve():
            return None
        done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    allowed = (0, 1) if "--no-index" in words else (0,)  # 1: the files differ
    return done.stdout if done.returncode in allowed else None
