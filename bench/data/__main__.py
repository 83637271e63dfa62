"""`python -m bench.data VERB`: generate, render, pack, check and view data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from rich.console import Console

from bench.common.errors import UserError, run_command
from bench.data.scene import SPLITS, VIEWS
from bench.data.storage.store import FORMS


def main() -> int:
    options = parse()
    console = Console(highlight=False)
    if getattr(options, "views", VIEWS) < 1:
        raise UserError(f"--views {options.views}: at least 1")
    if options.verb == "render":
        from bench.data.meshes.render import render

        return render(options.meshes, options.out, options.size, console, options.up)
    if options.verb == "furniture":
        from bench.data.meshes.furniture import furniture

        return furniture(options.out, options.size, options.package, console, options.limit)
    if options.verb == "pack":
        from bench.data.sources.gobjaverse import read_list
        from bench.data.storage.open_store import open_store
        from bench.data.storage.pack import pack

        path, listed = options.scene_list, None
        if path:
            listed = read_list(path, open_store(options.root, True, options.views, options.data), options.root)
        pack(options.root, options.out, options.size, console, views=options.views, only=listed, form=options.data)
        return 0
    if options.verb == "check":
        from bench.data.checks.check import check

        return check(options.root, console, views=options.views, form=options.data)
    if options.verb == "sheet" and options.root:
        from bench.data import contact_sheet

        scenes, size, zoom = options.scenes, options.size, options.zoom
        contact_sheet.contact_sheet_of_root(
            options.root, options.out, scenes, size, zoom, options.views, console, options.data
        )
        return 0
    return procedural(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in (("generate", "fill the cache with procedural scenes"), ("sheet", "write a contact sheet")):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--size", type=int, default=32, help="image side in pixels (default 32)")
        sub.add_argument("--scenes", type=int, default=16, help="scenes a split (default 16)")
        sub.add_argument("--seed", type=int, default=0)
        if verb == "sheet":
            _root_options(sub, nargs="?")
            sub.add_argument("--split", choices=SPLITS, default="training")
            sub.add_argument("--zoom", type=int, default=1, help="screen pixels a pixel")
            sub.add_argument("--out", type=Path, default=Path("results/scenes.png"))
    sub = verbs.add_parser("render", help="your own meshes → G-Objaverse's format, 40 views each")
    sub.add_argument(
        "meshes", type=Path, nargs="+", metavar="MESH", help="OBJ, GLB, PLY, ZIP … files, or folders of them"
    )
    sub.add_argument(
        "--up", choices=("auto", "y", "z"), default="auto", help="axis that points up (auto: y; PLY, STL, OFF: z)"
    )
    _output_options(sub)
    sub = verbs.add_parser("furniture", help="a training set from Debian's sweethome3d-furniture (CC0, CC BY)")
    _output_options(sub)
    sub.add_argument(
        "--package", type=Path, default=Path("/usr/share/sweethome3d/furniture"), help=".sh3f files, or the .deb"
    )
    sub.add_argument("--limit", type=int, metavar="N", help="only the first N models")
    sub = verbs.add_parser("check", help="verify files, cameras and pictures; exit code 1 for defects")
    _root_options(sub)
    sub = verbs.add_parser("pack", help="scenes → the packed form, for training at full speed")
    _root_options(sub)
    _output_options(sub)
    sub.add_argument(
        "--scene-list", type=Path, metavar="FILE", help='only these: a JSON list of "<dictionary>/<instance>"'
    )
    return parser.parse_args()


def _root_options(sub: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    text = "a data set, packed or in its own format" + (" (default: procedural scenes)" if nargs else "")
    sub.add_argument("root", type=Path, nargs=nargs, metavar="DIR", help=text)
    sub.add_argument("--data", choices=FORMS, default=FORMS[0], help=f"the format of its files (default {FORMS[0]})")
    sub.add_argument(
        "--views", type=int, default=VIEWS, help=f"views of a complete scene of G-Objaverse (default {VIEWS})"
    )


def _output_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    sub.add_argument("--size", type=int, default=256, help="image side in pixels (default 256)")


def procedural(options: argparse.Namespace) -> int:
    """`generate` and `sheet`."""
    if options.size < 1 or options.scenes < 1:
        raise UserError("--size and --scenes are at least 1")
    from bench.data.sources import procedural

    n = options.scenes
    spec = procedural.Spec(training_scenes=n, validation_scenes=n, evaluation_scenes=n, seed=options.seed)
    source = spec.open(options.size)
    if options.verb == "sheet":
        from bench.data import contact_sheet

        contact_sheet.write(options.out, contact_sheet.contact_sheet(source, options.split, n, options.zoom))
        print(options.out)
    else:
        print(source.folder)
    return 0


if __name__ == "__main__":
    run_command(main)
