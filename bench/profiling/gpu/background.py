"""What a CPU can prepare while the GPU works: gsplat's build, scenes, estimates. Each in a process of its own."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.common.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Background:
    """Processes by name. What they leave is found by whoever needs it; `required`: without it nothing can go on."""

    running: dict[str, tuple[subprocess.Popen[bytes], Path]] = field(default_factory=dict)
    required: str = ""
    failure: str = ""  # of the required one
    logs: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ead-bench-")))

    def start(self, name: str, code: str, environment: Mapping[str, str]) -> None:
        """Run Python code. It goes on to its end if this process is killed, so that its result serves the next call."""
        path = self.logs / f"{len(self.running)}.txt"
        with path.open("wb") as output:
            command = [sys.executable, "-c", code]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment)
            )
        self.running[name] = process, path

    def wait(self, until: float = float("inf")) -> None:
        """For all of them, but no longer than `until` (time.monotonic()): timing wants a quiet machine."""
        for name, (process, path) in list(self.running.items()):
            try:
                process.wait(None if until == float("inf") else max(until - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                continue
            if process.returncode:
                problem = f"{name}: exit code {process.returncode}: {_reason(path)}"
                log.warning("%s", problem)
                self.failure = self.failure or (problem if name == self.required else "")
            del self.running[name]

    def require(self) -> None:
        """Wait for all of them. Raises UserError, at each call, if the required one failed."""
        self.wait()
        if self.failure:
            raise UserError(self.failure)


def _reason(path: Path) -> str:
    """A compiler's first errors, else the last line."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return " | ".join(errors[:5] or lines[-1:])
