"""`python -m bench.data check DIR`: files, cameras and pictures of a data set, one line a defect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.common.environment import cores
from bench.data.checks.single_view import EMPTY, View, check_view, premultiplied
from bench.data.checks.view_pairs import check_pairs
from bench.data.scene import VIEWS
from bench.data.storage.index import VIEW
from bench.data.storage.open_store import open_store
from bench.data.storage.packed import Packed
from bench.data.storage.parallel import each_scene
from bench.data.storage.pixels import decode_exr, decode_picture, surface
from bench.data.storage.raw import Files, FolderFiles, Raw, decode_camera
from bench.data.storage.store import FORMS, Broken, Store

DECODERS: Mapping[str, Callable[[bytes, str], Any]] = {
    ".json": decode_camera,
    ".png": decode_picture,
    "_nd.exr": decode_exr,
}

NO_DEPTH = "no depth"  # of some data sets, and no defect


@dataclass(frozen=True)
class Defect:
    """Of a scene, or of one of its views."""

    kind: str
    scene: str
    view: int | None
    detail: str
    path: str = ""

    def __str__(self) -> str:
        where = self.scene if self.view is None else f"{self.scene} view {self.view}"
        text = f"{self.kind}: {where}: {self.detail}" + (f" ({self.path})" if self.path else "")
        return " ".join(text.split())


def check(root: Path, console: Console, workers: int | None = None, views: int = VIEWS, form: str = FORMS[0]) -> int:
    """Print every defect; 0 without any, 1 otherwise. `views`, `form`: open_store's. Raises UserError."""
    store = open_store(root, True, views, form)
    broken_scenes = store.broken() if isinstance(store, Packed) else {}
    scenes = [scene for scene in store.scenes() if scene not in broken_scenes]
    kinds: Counter[str] = Counter()
    damaged = without_depth = 0
    opener = partial(open_store, root, False, views, form)
    processes = min(workers or cores(), len(scenes) or 1)
    for _, findings in each_scene(find_defects, opener, scenes, processes, console, "checking"):
        defects = [defect for defect in findings if defect.kind != NO_DEPTH]
        without_depth += len(findings) - len(defects)
        for defect in defects:
            console.print(str(defect), markup=False, soft_wrap=True)
        kinds.update(defect.kind for defect in defects)
        damaged += bool(defects)
    if broken_scenes:
        console.print(f"{len(broken_scenes)} scenes were broken and left out when {root} was packed", soft_wrap=True)
    if without_depth:
        console.print(f"{without_depth} scenes came without depth: their views were not compared", soft_wrap=True)
    by_kind = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    summary = f"{root}: {len(scenes)} scenes checked, {damaged} with defects" + (f": {by_kind}" if by_kind else "")
    console.print(summary, markup=False, soft_wrap=True)
    return 1 if kinds else 0


def find_defects(store: Store, scene: str) -> list[Defect]:
    """Files first; then each view that could be read by itself, and with its neighbors."""
    defects: list[Defect] = []
    views = _raw(store, scene, defects) if isinstance(store, Raw) else _stored(store, scene, defects)
    usual = Counter(view.rgba.shape[:2] for view in views).most_common(1)
    for view in views:
        if (shape := view.rgba.shape[:2]) != usual[0][0]:
            defects.append(Defect("wrong size", scene, view.number, f"{shape[1]} × {shape[0]} px, others differ"))
    if views and not isinstance(store, Raw) and not any(view.depth.any() for view in views):
        empty = [Defect("empty picture", scene, v.number, EMPTY) for v in views if not v.rgba[..., 3].any()]
        return [*defects, *empty, Defect(NO_DEPTH, scene, None, "its views cannot be compared")]
    single = {view.number: dict(check_view(view)) for view in views}
    pairwise = list(check_pairs([view for view in views if not {"mask", "empty picture"} & set(single[view.number])]))
    misplaced = {number for number, kind, _ in pairwise if kind == "reprojection"}
    for number, findings in single.items():
        if number in misplaced or None in misplaced:  # normals are wrong there, too
            findings.pop("normals", None)
    defects += _merge_common(scene, single)
    defects += [Defect(kind, scene, None, detail) for kind, detail in premultiplied(views)]
    return defects + [Defect(kind, scene, number, detail) for number, kind, detail in pairwise]


def _merge_common(scene: str, findings: Mapping[int, Mapping[str, str]]) -> Iterator[Defect]:
    """Of view → kind → detail: a defect each, or a single one for a kind that most views of the scene have."""
    counts = Counter(kind for kinds in findings.values() for kind in kinds)
    common = {kind for kind, count in counts.items() if count > max(2, len(findings) / 2)}
    for number, kinds in findings.items():
        for kind, detail in kinds.items():
            if kind not in common:
                yield Defect(kind, scene, number, detail)
    for kind in sorted(common):
        number = next(number for number, kinds in findings.items() if kind in kinds)
        detail = f"{counts[kind]} of {len(findings)} views, as in {number}: {findings[number][kind]}"
        yield Defect(kind, scene, None, detail)


def _stored(store: Store, scene: str, defects: list[Defect]) -> list[View]:
    """The views that can be read; what cannot be read is added to `defects`."""
    try:
        poses, angles = store.cameras(scene)
    except Broken as broken:
        defects.append(Defect(broken.kind, scene, None, broken.detail, broken.path))
        return []
    views = []
    for number, (pose, angle) in enumerate(zip(poses, angles, strict=True)):
        try:
            data = store.read(scene, [number])
        except Broken as broken:
            defects.append(Defect(broken.kind, scene, number, broken.detail, broken.path))
        else:
            views.append(View(number, data.images[0], data.depth[0], data.normals[0], pose, float(angle)))
    return views


def _raw(store: Raw, scene: str, defects: list[Defect]) -> list[View]:
    """The same for files. Where views are absent the others are checked."""
    numbers: Sequence[int] = range(store.views)
    try:
        files = store.files(scene)
    except Broken as broken:
        defects.append(Defect(broken.kind, scene, None, broken.detail, broken.path))
        folder = store.root / store.locations[scene].path
        if broken.kind != "missing view" or not folder.is_dir():
            return []
        files = FolderFiles(folder)
        numbers = sorted(int(path.name) for path in folder.iterdir() if VIEW.fullmatch(path.name))
    return [view for number in numbers if (view := _files_view(files, scene, number, defects))]


def _files_view(files: Files, scene: str, number: int, defects: list[Defect]) -> View | None:
    """One view, if its three files can be read; each that cannot is added to `defects`."""
    decoded: dict[str, Any] = {}
    for suffix, decode in DECODERS.items():
        try:
            decoded[suffix] = decode(files.read(number, suffix), files.name(number, suffix))
        except Broken as broken:
            defects.append(Defect(broken.kind, scene, number, broken.detail, broken.path))
    if len(decoded) < len(DECODERS):
        return None
    (pose, angle), rgba, normal_depth = decoded.values()
    try:
        same = rgba.shape[:2] == normal_depth.shape[1:]
        stray = int(((rgba[..., 3] == 0) & (normal_depth[3] > 0)).sum()) if same else 0
        rgba, depth, normals = surface(rgba, normal_depth, files.name(number, "_nd.exr"))
    except Broken as broken:
        defects.append(Defect(broken.kind, scene, number, broken.detail, broken.path))
        return None
    return View(number, rgba, depth, normals, pose, angle, stray)
