"""Commands run as processes under restrictions of a file system, which also bind root."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = """
import errno, os, pathlib, runpy, sys
rule, folder, module = sys.argv[1], os.path.abspath(sys.argv[2]), sys.argv[3]
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate", "shutil.rmtree"}
def restrict(event, arguments):
    if not arguments or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    path = os.path.abspath(os.fsdecode(arguments[0]))
    if not path.startswith(folder):
        return
    writes = event in WRITES or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if rule == "read-only" and writes:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    if rule == "without links" and event == "os.link":
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), path)
sys.addaudithook(restrict)
sys.argv = sys.argv[3:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run_restricted(
    rule: str, folder: Path, module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` where `folder` is "read-only" or on a file system "without links"."""
    command = [sys.executable, "-c", PROGRAM, rule, str(folder), module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
