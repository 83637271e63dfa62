"""Reading single views at random, raw and packed: images per second of one core, and their ratio in the same run.

The files are in the page cache: this measures decoding, checking and resizing, not a disk.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from bench.common.console import command_console, track
from bench.common.errors import UserError
from bench.data.procedural.generator import generate
from bench.data.scene import VIEWS
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.data.storage.packed import DATA
from bench.data.storage.store import PACKED, Store
from bench.data.storage.write import LEVEL, write_scene


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.benchmark data", description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, help="raw scenes (default: some procedural ones, written first)")
    parser.add_argument("--size", type=int, default=256, help="image side in pixels (default 256)")
    parser.add_argument("--scenes", type=int, default=3, help="number of scenes (default 3)")
    parser.add_argument("--images", type=int, default=100, help="images per round (default 100)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, whose median is reported (default 7)")
    options = parser.parse_args(argv)
    for name in ("size", "scenes", "images", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1")
    if options.root is not None and (options.root / PACKED).is_file():
        raise UserError(f"{options.root} is packed: pass a raw root")
    messages = command_console(to_stderr=True)
    with TemporaryDirectory(prefix="ead-bench-") as folder:
        root = options.root or write_scenes(Path(folder) / "raw", options.scenes, options.size, messages)
        raw = open_store(root, progress=False)
        names = [scene for scene in raw.scenes() if scene not in raw.broken()][: options.scenes]
        pack(root, Path(folder) / "packed", options.size, Console(file=io.StringIO()), only=names)
        packed = open_store(Path(folder) / "packed")
        view_bytes = (Path(folder) / "packed" / DATA).stat().st_size / sum(
            len(packed.cameras(scene)[0]) for scene in names
        )
        rates = measure({"raw": raw, "packed": packed}, names, options.size, options.images, options.rounds)
    Console().print(build_table(rates, options.size, len(names), view_bytes))
    return 0


def write_scenes(root: Path, scenes: int, size: int, console: Console) -> Path:
    """Write procedural scenes as raw files; the root."""
    for i in track(range(scenes), "generating scenes", scenes, console):
        write_scene(generate(0, "training", i, size), root / "0" / f"{i:05d}" / LEVEL)
    return root


def measure(
    stores: Mapping[str, Store], scenes: Sequence[str], size: int, images: int, rounds: int
) -> dict[str, tuple[float, float]]:
    """{store: images per second of (CPU time, wall time)}: medians over rounds, alternating stores. One thread."""
    random = np.random.default_rng(0)
    cpu: dict[str, list[float]] = {name: [] for name in stores}
    wall: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(rounds + 1):
        views = [(scenes[i], int(view)) for i, view in random.integers((len(scenes), VIEWS), size=(images, 2))]
        for name, store in stores.items():
            started = time.process_time(), time.perf_counter()
            for scene, view in views:
                store.read(scene, [view], size)
            cpu[name].append(images / (time.process_time() - started[0]))
            wall[name].append(images / (time.perf_counter() - started[1]))
    return {name: (statistics.median(cpu[name][1:]), statistics.median(wall[name][1:])) for name in stores}


def build_table(rates: Mapping[str, tuple[float, float]], size: int, scenes: int, view_bytes: float) -> Table:
    """One row per store."""
    title = f"random views at {size}² of {scenes} scenes; packed: {decimal(round(view_bytes))} per view"
    table = Table(title=title)
    for heading in ("", "images/s/core (CPU time)", "images/s (wall)", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, (cpu, wall) in rates.items():
        table.add_row(name, f"{cpu:.0f}", f"{wall:.0f}", f"{cpu / rates['raw'][0]:.1f}×")
    return table
