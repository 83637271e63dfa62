"""A copy of the source at submission, from which the jobs run: later edits of the checkout do not affect them.

results/code/<digest>/ holds the packages and the specs, snapshot.json (bench.common.paths.SNAPSHOT) with the commit and
the changed files, and code.diff. Identical sources share a snapshot.
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
    """Identity of a copy of the source; `commit` is None outside a git checkout."""

    digest: str
    commit: str | None
    changed: tuple[str, ...]  # tracked files that differ from the commit, and new ones

    @property
    def label(self) -> str:
        """For example "commit 1d451cf, with 2 files changed: bench/run.py, …"."""
        text = f"commit {self.commit[:7]}" if self.commit else "no git commit"
        if not self.changed:
            return text
        names = ", ".join(self.changed[:3]) + (", …" if len(self.changed) > 3 else "")
        return f"{text}, with {len(self.changed)} file{'s' * (len(self.changed) > 1)} changed: {names}"


def describe_source(source: Path = SOURCE) -> Snapshot:
    """The snapshot that `take_snapshot` would write now."""
    if (source / SNAPSHOT).is_file():  # a job submits: the snapshot it runs from
        content = read_json(source / SNAPSHOT)
        return Snapshot(content["digest"], content["commit"], tuple(content["changed"]))
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
    """The snapshot and its folder, which is written unless it exists."""
    frozen = describe_source(source)
    folder = (results / "code" / frozen.digest).resolve()
    if (source / SNAPSHOT).is_file():
        return frozen, source
    if not (folder / SNAPSHOT).is_file():
        atomic_write(folder, lambda target: _copy(source, target, frozen))
    return frozen, folder


def _copy(source: Path, target: Path, frozen: Snapshot) -> None:
    for path in _files(source):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    (target / DIFF).write_text(_diff(source, frozen) if frozen.commit else "", encoding="utf-8")
    write_json(target / SNAPSHOT, asdict(frozen))


def _diff(source: Path, frozen: Snapshot) -> str:
    """Against the commit, new files included; `git apply` on the commit restores this source."""
    tracked = _git(source, "diff", "--binary", "--no-ext-diff", "--no-color", "HEAD", "--", *PARTS) or ""
    known = set((_git(source, "ls-files", "-z", "--", *PARTS) or "").split("\0"))
    new = [
        _git(source, "diff", "--binary", "--no-ext-diff", "--no-color", "--no-index", "--", "/dev/null", name) or ""
        for name in frozen.changed
        if name not in known and (source / name).is_file()
    ]
    return tracked + "".join(new)


def _files(source: Path) -> Iterator[Path]:
    """Sorted: of a git checkout the tracked and unignored files, else all but caches."""
    listed = _git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS)
    if listed is not None:
        names = sorted(set(filter(None, listed.split("\0"))))
        yield from (path for name in names if (path := source / name).is_file())
        return
    for part in PARTS:
        for path in sorted((source / part).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _git(source: Path, *arguments: str) -> str | None:
    """Output of a git command; None without git, or where `source` is not the top of a checkout."""
    try:
        top = subprocess.run(["git", "-C", str(source), "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        if top.returncode or Path(top.stdout.strip()).resolve() != source.resolve():
            return None
        done = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, errors="replace")
    except OSError:
        return None
    allowed = (0, 1) if "--no-index" in arguments else (0,)  # 1: the files differ
    return done.stdout if done.returncode in allowed else None
