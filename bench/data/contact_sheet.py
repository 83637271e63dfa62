"""A contact sheet: some views of some scenes, one scene a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.common.errors import UserError
from bench.data.scene import VIEWS, DataSource, Split
from bench.data.storage.open_store import open_store
from bench.data.storage.store import FORMS, Broken

PICTURE_SUFFIXES = (".png", ".jpg")
SHEET_VIEWS = (0, 3, 6, 9, 12, 15, 18, 21, 25, 27, 33)


def contact_sheet(source: DataSource, split: Split, scenes: int, zoom: int = 1) -> NDArray[np.uint8]:
    """(height, width, 3): views SHEET_VIEWS of the first scenes on white, each pixel `zoom` × `zoom`."""
    rows = [_on_white(source.read(scene, SHEET_VIEWS).images) for scene in source.scenes(split)[:scenes]]
    return np.concatenate(rows).repeat(zoom, 0).repeat(zoom, 1)


def contact_sheet_of_root(
    root: Path, out: Path, scenes: int, size: int, zoom: int, views: int, console: Console, form: str = FORMS[0]
) -> None:
    """A PNG of the first scenes of a data set that can be read; prints which, and which cannot. Raises UserError."""
    if min(scenes, size, zoom) < 1:
        raise UserError("--scenes, --size and --zoom are at least 1")
    if out.suffix.lower() not in PICTURE_SUFFIXES:
        raise UserError(f"--out {out}: a contact sheet is a picture, {' or '.join(PICTURE_SUFFIXES)}")
    store = open_store(root, True, views, form)
    rows: list[NDArray[np.uint8]] = []
    for scene in store.scenes():
        try:
            count = len(store.cameras(scene)[0])
            chosen = (
                SHEET_VIEWS
                if count == VIEWS
                else np.unique(np.linspace(0, count - 1, len(SHEET_VIEWS)).astype(int)).tolist()
            )
            rows.append(_on_white(store.read(scene, chosen, size).images))
        except Broken as broken:
            console.print(f"{scene}: {broken}", markup=False, soft_wrap=True)
        else:
            console.print(f"row {len(rows)}: {scene}", markup=False, soft_wrap=True)
        if len(rows) == scenes:
            break
    if not rows:
        raise UserError(f"{root}: no scene can be read")
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    write(out, np.concatenate(padded).repeat(zoom, 0).repeat(zoom, 1))
    console.print(str(out), markup=False, soft_wrap=True)


def write(path: Path, image: NDArray[np.uint8]) -> None:
    """As PNG."""
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, image)


def _on_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(view, height, width, 4) side by side: (height, view · width, 3)."""
    rgba = images.astype(np.float32)
    alpha = rgba[..., 3:] / 255
    rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
    return np.concatenate(list(np.rint(rgb).astype(np.uint8)), axis=1)
