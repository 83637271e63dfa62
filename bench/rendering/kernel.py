"""The C++ rasterizer as a shared library: built by the system's compiler at first use, and kept.

The library is keyed by source, compiler and flags, so that an edit or another machine builds its own.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from pathlib import Path

from bench.common.errors import UserError
from bench.common.files import atomic_write
from bench.common.paths import cache_dir

SOURCES = ("rasterize.cpp", "tiles.cpp", "projection.cpp")  # the first includes the others
COMPILE = ("-std=c++17", "-O3", "-ffast-math", "-fopenmp", "-fPIC", "-Wno-psabi")
LINK = ("-shared", "-fopenmp")  # without -ffast-math, which would set flush-to-zero for the whole process
X86_64_V3 = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}


class NoCompiler(UserError):
    """The kernel cannot be built here."""


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernel. Raises NoCompiler; a failure is not cached, so that a compiler may be installed meanwhile."""
    path = _library_path()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(f"the compiled renderer does not load: {error}; delete {path} to build it anew") from error


@functools.cache
def available() -> bool:
    """Whether the kernel can be built and loaded here; if not, a warning says why."""
    try:
        library()
    except NoCompiler as error:
        warnings.warn(f"{error}; rendering with the plain-torch reference, several times slower", stacklevel=5)
        return False
    return True


def flags() -> tuple[str, ...]:
    """Compile flags for this CPU."""
    return (*COMPILE, "-march=x86-64-v3") if _has_x86_64_v3() else COMPILE


def _has_x86_64_v3() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return False
    lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split()) >= X86_64_V3


def _library_path() -> Path:
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
    if platform.system() != "Linux" or compiler is None:
        raise NoCompiler(
            "the compiled renderer needs Linux and a C++17 compiler with OpenMP: install g++, or set CXX to one"
        )
    sources = Path(__file__).parent / "csrc"
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    key = hashlib.sha256("\0".join([version, *flags(), *LINK]).encode())
    for name in SOURCES:
        key.update((sources / name).read_bytes())
    folder = cache_dir() / "kernels"
    path = folder / f"rasterize-{key.hexdigest()[:24]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _build(compiler, sources / SOURCES[0], path)
    return path


def _build(compiler: str, source: Path, path: Path) -> None:
    """Compile and link; other processes see the whole file or none."""

    def build(linked: Path) -> None:
        compiled = linked.with_suffix(".o")
        for command in (
            [compiler, *flags(), "-c", str(source), "-o", str(compiled)],
            [compiler, str(compiled), *LINK, "-o", str(linked)],
        ):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode != 0:
                raise NoCompiler(f"the compiled renderer does not build: {' '.join(command)}\n{result.stderr[-2000:]}")

    atomic_write(path, build)
