"""`python -m bench.export RUN`: a trained run's Gaussians of an evaluation scene, and its cameras, for other tools.

Writes gaussians.ply (as INRIA's viewers read it), images/, COLMAP's text model (sparse/0/) and transforms.json into
RUN/export/SCENE. Frame, axes and formats: bench/evaluation/export.py and docs/results.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.common.console import track
from bench.common.errors import UserError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, results/runs/ID")
    add("--scene", metavar="ID", help="an evaluation scene (default: the first)")
    add("--ply", action="store_true", help="only gaussians.ply, without cameras and images")
    add("--depth", action="store_true", help="also depth/target_N.npy, rendered depth of the target views")
    add("--turntable", type=Path, metavar="FILE", help="also a turntable, FILE.gif or FILE.mp4")
    add("--size", type=int, default=256, metavar="PX", help="of the turntable's pictures (default 256)")
    add("--out", type=Path, metavar="DIR", help="default: RUN/export/SCENE")
    options = parser.parse_args(argv)
    from bench.evaluation import export

    if options.size < 2 or options.size % 2:
        raise UserError(f"--size {options.size}: an even number of pixels, at least 2")
    if options.turntable:
        export.check_video_path(options.turntable)
    batch, gaussians = export.predict_scene(options.run, options.scene)
    folder = options.out or options.run / "export" / batch.scenes[0].replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    export.write_ply(gaussians, folder / "gaussians.ply")
    if not options.ply:
        export.write_cameras(batch, folder)
    if options.depth:
        export.write_depth(gaussians, batch, folder / "depth")
    if options.turntable:
        frames = list(
            track(export.turntable(gaussians, batch, options.size), "rendering the turntable", export.TURNTABLE_FRAMES)
        )
        export.write_video(frames, options.turntable)
    print(f"export: {folder.resolve()}")
    return 0


if __name__ == "__main__":
    run_command(main)
