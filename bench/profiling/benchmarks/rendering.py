"""Forward and backward times of the back ends, and the ratio to the plain-torch reference in the same run."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.common.console import command_console, print_json, track
from bench.rendering import Backend, render
from models.tensors import Cameras, Gaussians

LIMIT_S = 10.0  # for one pass of the reference; slower cases are timed with the compiled kernel alone


@dataclass(frozen=True)
class Case:
    """`spread` is the standard deviation of the Gaussians' positions; the object fills the image at 0.25."""

    scenes: int
    views: int
    size: int
    gaussians: int
    spread: float = 0.25


CASES = [Case(1, views, size, count) for count in (16_384, 262_144) for size in (64, 128, 256) for views in (1, 4)]
CASES += [Case(8, 4, 32, 4096), Case(8, 4, 32, 4096, spread=0.03)]  # a tiny training step; an untrained one


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.benchmark rendering", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats, whose median is reported (default 5)")
    options = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast: Backend = "gsplat" if device.type == "cuda" else "compiled"
    messages = command_console(to_stderr=True)
    rows = []
    for case in track(CASES, "timing cases", len(CASES), messages):
        rows.append(measure(case, fast, device, options.repeats))
    if options.json:
        print_json(rows)
    else:
        Console().print(build_table(rows, fast))
    return 0


def measure(case: Case, fast: Backend, device: torch.device, repeats: int) -> dict[str, Any]:
    """Median milliseconds of forward + backward; the reference's is None where one pass takes longer than LIMIT_S."""
    fast_ms = statistics.median(_time(case, fast, device) for _ in range(repeats + 1))
    reference = [_time(case, "reference", device)]
    if reference[0] < LIMIT_S * 1000:
        reference += [_time(case, "reference", device) for _ in range(min(repeats, 2))]
    reference_ms = statistics.median(reference[1:]) if len(reference) > 1 else None
    return {
        **asdict(case),
        f"{fast}_ms": round(fast_ms, 2),
        "reference_ms": reference_ms and round(reference_ms, 1),
        "ratio": reference_ms and round(reference_ms / fast_ms, 1),
        "threads": torch.get_num_threads(),
    }


def build_table(rows: Sequence[dict[str, Any]], fast: Backend) -> Table:
    """One row per case."""
    table = Table(title=f"forward + backward, {rows[0]['threads']} threads")
    for heading in (
        "scenes × views",
        "image",
        "Gaussians a scene",
        "spread",
        f"{fast} [ms]",
        "reference [ms]",
        "ratio",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row['scenes']} × {row['views']}",
            f"{row['size']}²",
            f"{row['gaussians']:,}",
            str(row["spread"]),
            f"{row[f'{fast}_ms']:.1f}",
            f"{row['reference_ms']:.0f}" if row["reference_ms"] else f"one pass over {LIMIT_S:.0f} s",
            f"{row['ratio']:.1f}×" if row["ratio"] else "",
        )
    return table


def _time(case: Case, backend: Backend, device: torch.device) -> float:
    """One forward and backward pass, in ms."""
    gaussians, cameras, background = scene(case, device)
    _synchronize(device)
    started = time.perf_counter()
    image = render(gaussians, cameras, background, backend=backend)
    torch.autograd.backward(image.rgb.square().mean() + image.alpha.mean())
    _synchronize(device)
    return (time.perf_counter() - started) * 1000


def scene(case: Case, device: torch.device) -> tuple[Gaussians, Cameras, torch.Tensor]:
    """Random Gaussians in a ball, with the scales and opacities of an untrained model; cameras at distance 1.8."""
    random = torch.Generator().manual_seed(0)
    shape = (case.scenes, case.gaussians)

    def leaf(values: torch.Tensor) -> torch.Tensor:
        return values.to(device).requires_grad_()

    gaussians = Gaussians(
        means=leaf(torch.randn(*shape, 3, generator=random) * case.spread),
        rotations=leaf(torch.nn.functional.normalize(torch.randn(*shape, 4, generator=random), dim=-1)),
        scales=leaf(torch.rand(*shape, 3, generator=random) * 0.02 + 0.002),
        opacities=leaf(torch.rand(*shape, generator=random)),
        harmonics=leaf(torch.randn(*shape, 1, 3, generator=random)),
    )
    views = (case.scenes, case.views)
    pose = torch.eye(4).repeat(*views, 1, 1)
    pose[..., 2, 3] = 1.8
    intrinsics = torch.tensor([[case.size * 1.39, 0, case.size / 2], [0, case.size * 1.39, case.size / 2], [0, 0, 1]])
    cameras = Cameras(pose, intrinsics.repeat(*views, 1, 1), case.size, case.size).to(device)
    return gaussians, cameras, torch.ones(*views, 3, device=device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
