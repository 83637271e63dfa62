"""Every planted defect is reported on one line that names its view; whole data gives none."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import OpenEXR
import pytest
from PIL import Image
from rich.console import Console
from support.gobjaverse_files import LEVEL, XML, as_tars, change_camera, view_file
from support.paths import ROOT

from bench.data.checks.check import check, find_defects
from bench.data.checks.single_view import View, check_view
from bench.data.checks.view_pairs import suspect_views
from bench.data.procedural.generator import generate
from bench.data.scene import SceneData
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.data.storage.write import write_exr, write_scene

SIZE = 64
SCENES = ("0/10005", "0/10006")
HARMED = SCENES[1]
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root_folder = tmp_path_factory.mktemp("raw") / "root"
    for i, name in enumerate(SCENES):
        write_scene(generate(0, "training", 3 + i, SIZE), root_folder / name / LEVEL)
    return root_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def checked(root: Path, workers: int = 1) -> tuple[int, list[str]]:
    """Exit code and lines, without the summary."""
    file = io.StringIO()
    code = check(root, Console(file=file, width=80), workers)
    *lines, summary = file.getvalue().splitlines()
    assert "scenes checked" in summary
    return code, lines


def read_exr(path: Path) -> np.ndarray:
    with OpenEXR.File(str(path), separate_channels=False) as file:
        return np.array(file.channels()["RGBA"].pixels)


def exr(change: Callable[[np.ndarray, np.ndarray], object], *views: int) -> Damage:
    """`change` is given RGBA of `_nd.exr` and alpha (height, width) in [0, 1], and writes into the first."""

    def damage(folder: Path) -> None:
        for view in views or (4,):
            path = view_file(folder, view, "_nd.exr")
            rgba = read_exr(path).astype(np.float32)
            alpha = np.array(Image.open(view_file(folder, view, ".png")))[..., 3] / np.float32(255)
            change(rgba, alpha)
            write_exr(path, rgba.astype(np.float16))

    return damage


def png(change: Callable[[np.ndarray], np.ndarray], *views: int) -> Damage:
    def damage(folder: Path) -> None:
        for view in views or (4,):
            path = view_file(folder, view, ".png")
            Image.fromarray(change(np.array(Image.open(path)))).save(path)

    return damage


def swap(a: int, b: int, *suffixes: str) -> Damage:
    def damage(folder: Path) -> None:
        for suffix in suffixes:
            first, second = view_file(folder, a, suffix), view_file(folder, b, suffix)
            contents = first.read_bytes(), second.read_bytes()
            second.write_bytes(contents[0])
            first.write_bytes(contents[1])

    return damage


def cut(suffix: str) -> Damage:
    def damage(folder: Path) -> None:
        path = view_file(folder, 4, suffix)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def write(suffix: str, content: bytes) -> Damage:
    return lambda folder: view_file(folder, 4, suffix).write_bytes(content)


def camera(folder: Path, view: int = 4) -> dict[str, np.ndarray]:
    content = json.loads(view_file(folder, view, ".json").read_text())
    return {key: np.array(content[key]) for key in ("x", "y", "z", "origin")}


def transpose(folder: Path) -> None:
    axes = camera(folder)
    turned = np.stack([axes["x"], axes["y"], axes["z"]])
    change_camera(folder, 4, **{key: turned[:, i].tolist() for i, key in enumerate("xyz")})


def move(folder: Path) -> None:
    axes = camera(folder)
    change_camera(folder, 4, origin=(axes["origin"] + 0.06 * axes["x"]).tolist())


def zoom(factor: float, *views: int) -> Damage:
    """These fields of view, or all."""

    def damage(folder: Path) -> None:
        for view in views or range(40):
            angle = json.loads(view_file(folder, view, ".json").read_text())["x_fov"]
            change_camera(folder, view, x_fov=factor * angle, y_fov=factor * angle)

    return damage


def multiplied(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.concatenate([(rgba[..., :3] * alpha // 255).astype(np.uint8), rgba[..., 3:]], axis=-1)


def to_opengl(folder: Path) -> None:
    for view in range(40):
        axes = camera(folder, view)
        change_camera(folder, view, y=(-axes["y"]).tolist(), z=(-axes["z"]).tolist())


def not_multiplied(rgba: np.ndarray, alpha: np.ndarray) -> None:
    rgba[..., 3] = np.divide(rgba[..., 3], alpha, out=np.zeros_like(alpha), where=alpha > 0)


def nan_where_seen(rgba: np.ndarray, alpha: np.ndarray) -> None:
    rgba[..., 3][np.unravel_index(alpha.argmax(), alpha.shape)] = np.nan


def flip(rgba: np.ndarray, alpha: np.ndarray) -> None:
    rgba[..., :3] = np.where(alpha[..., None] > 0, -rgba[..., :3], rgba[..., :3])


def other_axes(rgba: np.ndarray, alpha: np.ndarray) -> None:
    rgba[..., :3] = np.where(alpha[..., None] == 1, rgba[..., [1, 2, 0]], rgba[..., :3])


def shorten(rgba: np.ndarray, alpha: np.ndarray) -> None:
    rgba[..., :3] *= 0.5


def scale_depth(factor: float) -> Callable[[np.ndarray, np.ndarray], object]:
    return lambda rgba, alpha: np.multiply(rgba[..., 3], factor, out=rgba[..., 3])


ZEROS = {"x": [0, 0, 0], "y": [0, 0, 0], "z": [0, 0, 0], "origin": [0, 0, 0]}
DAMAGE: dict[str, tuple[Damage, list[str]]] = {  # what is planted, and how the lines begin
    "xml as png": (write(".png", XML), [f"failed download: {HARMED} view 4: "]),
    "xml as exr": (write("_nd.exr", XML), [f"failed download: {HARMED} view 4: "]),
    "xml as json": (write(".json", XML), [f"failed download: {HARMED} view 4: "]),
    "half a png": (cut(".png"), [f"truncated: {HARMED} view 4: "]),
    "half an exr": (cut("_nd.exr"), [f"damaged: {HARMED} view 4: "]),
    "nan depth": (exr(nan_where_seen), [f"not finite: {HARMED} view 4: "]),
    "zero camera": (lambda f: change_camera(f, 4, **ZEROS), [f"zero camera: {HARMED} view 4: "]),
    "no file": (lambda f: view_file(f, 4, "_nd.exr").unlink(), [f"missing file: {HARMED} view 4: "]),
    "no view": (
        lambda f: shutil.rmtree(f / LEVEL / "00004"),
        [f"missing view: {HARMED}: 1 of 40 views are absent: 4 "],
    ),
    "transposed rotation": (transpose, [f"reprojection: {HARMED} view 4: "]),
    "moved camera": (move, [f"reprojection: {HARMED} view 4: "]),
    "wider field of view": (zoom(1.3, 4), [f"reprojection: {HARMED} view 4: "]),
    "fields of view of no square": (lambda f: change_camera(f, 4, x_fov=0.9), [f"bad camera: {HARMED} view 4: "]),
    "depth too near": (exr(scale_depth(0.97)), [f"reprojection: {HARMED} view 4: "]),
    "depth too far": (exr(scale_depth(1.03)), [f"reprojection: {HARMED} view 4: "]),
    "depth not premultiplied": (exr(not_multiplied), [f"edge depth: {HARMED} view 4: "]),
    "depth premultiplied twice": (
        exr(lambda rgba, alpha: np.multiply(rgba[..., 3], alpha, out=rgba[..., 3])),
        [f"edge depth: {HARMED} view 4: "],
    ),
    "flipped normals": (exr(flip), [f"normals: {HARMED} view 4: "]),
    "normals of other axes": (exr(other_axes), [f"normals: {HARMED} view 4: "]),
    "short normals": (exr(shorten), [f"normals: {HARMED} view 4: "]),
    "swapped views": (
        swap(4, 5, ".png", "_nd.exr"),
        [f"reprojection: {HARMED} view 4: ", f"reprojection: {HARMED} view 5: "],
    ),
    "swapped pictures": (swap(4, 31, ".png"), [f"mask: {HARMED} view 4: ", f"mask: {HARMED} view 31: "]),
    "swapped depths": (swap(4, 5, "_nd.exr"), [f"mask: {HARMED} view 4: ", f"mask: {HARMED} view 5: "]),
    "empty picture": (png(np.zeros_like), [f"empty picture: {HARMED} view 4: "]),
    "blue for red": (png(lambda rgba: rgba[..., [2, 1, 0, 3]]), [f"channels: {HARMED} view 4: "]),
    "blue for red from below": (  # its neighbors see little of it
        png(lambda rgba: rgba[..., [2, 1, 0, 3]], 26),
        [f"channels: {HARMED} view 26: "],
    ),
    "exchanged channels": (png(lambda rgba: rgba[..., [1, 2, 0, 3]]), [f"channels: {HARMED} view 4: "]),
    "dark picture": (png(lambda rgba: rgba // np.array([4, 4, 4, 1], np.uint8)), [f"color: {HARMED} view 4: "]),
    "flipped normals everywhere": (exr(flip, *range(40)), [f"normals: {HARMED}: 40 of 40 views, as in 0: "]),
    "narrower field of view everywhere": (zoom(0.94), [f"field of view: {HARMED}: "]),
    "wider field of view everywhere": (zoom(1.05), [f"field of view: {HARMED}: "]),
    "colors multiplied by alpha": (png(multiplied, *range(40)), [f"edge color: {HARMED}: "]),
    "cameras of other axes": (to_opengl, [f"reprojection: {HARMED}: "]),
}


def test_flipped_normals_are_reported_on_few_pixels() -> None:
    """Too few for the depth around them to show a surface; which way a normal points needs none."""
    size, few = 32, np.s_[10:14, 10:14]
    rgba, depth = np.zeros((size, size, 4), np.uint8), np.zeros((size, size), np.float32)
    rgba[few], depth[few] = 255, 2.0
    for direction, expected in ((-1.0, []), (1.0, ["normals"])):
        normals = np.zeros((size, size, 3), np.float32)
        normals[few] = [0, 0, direction]  # the camera looks along z
        view = View(0, rgba, depth, normals, np.eye(4), 0.69)
        assert [kind for kind, _ in check_view(view)] == expected


def test_whole_data_has_none(root: Path, tmp_path: Path) -> None:
    assert checked(root) == (0, [])
    assert checked(as_tars(root, tmp_path / "tars"), workers=2) == (0, [])


@pytest.mark.parametrize("damage", DAMAGE)
def test_planted_defects_are_reported(copy: Path, damage: str) -> None:
    plant, expected = DAMAGE[damage]
    plant(copy / HARMED)
    code, lines = checked(copy)
    assert code == 1
    assert [any(line.startswith(start) for start in expected) for line in lines] == [True] * len(expected), lines
    assert [any(line.startswith(start) for line in lines) for start in expected] == [True] * len(expected), lines


def test_the_order_of_channels_is_named(copy: Path) -> None:
    DAMAGE["blue for red"][0](copy / HARMED)
    assert "when read as BGR" in checked(copy)[1][0]


def test_many_defects_of_one_scene(copy: Path) -> None:
    """One does not hide the others, a missing view among them."""
    folder = copy / HARMED
    shutil.rmtree(folder / LEVEL / "00001")
    view_file(folder, 2, ".png").write_bytes(XML)
    view_file(folder, 2, "_nd.exr").write_bytes(XML)
    change_camera(folder, 3, **ZEROS)
    transpose(folder)
    exr(flip, 8)(folder)
    exr(not_multiplied, 12)(folder)
    swap(30, 33, ".png", "_nd.exr")(folder)
    defects = [line.partition(": ")[0::2] for line in checked(copy)[1]]
    assert sorted((kind, place.partition(": ")[0]) for kind, place in defects) == [
        ("edge depth", f"{HARMED} view 12"),
        ("failed download", f"{HARMED} view 2"),
        ("failed download", f"{HARMED} view 2"),
        ("missing view", HARMED),
        ("normals", f"{HARMED} view 8"),
        ("reprojection", f"{HARMED} view 30"),
        ("reprojection", f"{HARMED} view 33"),
        ("reprojection", f"{HARMED} view 4"),
        ("zero camera", f"{HARMED} view 3"),
    ]


@pytest.mark.parametrize(
    ("content", "kind"), [(XML, "failed download"), (None, "truncated")], ids=["markup", "cut short"]
)
def test_tars(root: Path, tmp_path: Path, content: bytes | None, kind: str) -> None:
    tar_root = as_tars(root, tmp_path / "tars")
    tar = tar_root / f"{HARMED}.tar"
    tar.write_bytes(content if content is not None else tar.read_bytes()[: tar.stat().st_size // 2])
    code, lines = checked(tar_root)
    assert code == 1 and len(lines) == 1 and lines[0].startswith(f"{kind}: {HARMED}: ") and str(tar) in lines[0]


def test_packed_data(copy: Path, tmp_path: Path) -> None:
    DAMAGE["flipped normals"][0](copy / HARMED)
    DAMAGE["transposed rotation"][0](copy / SCENES[0])
    (copy / "0/10007").mkdir()
    out = tmp_path / "packed"
    pack(copy, out, SIZE, Console(file=io.StringIO()), workers=1)
    with lmdb.open(str(out), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(f"{HARMED}\x0000009".encode(), b"nonsense")
    code, lines = checked(out)
    assert code == 1 and lines[-1] == f"1 scenes were broken and left out when {out} was packed"
    expected = (f"reprojection: {SCENES[0]} view 4: ", f"damaged: {HARMED} view 9: ", f"normals: {HARMED} view 4: ")
    assert [line.startswith(start) for line, start in zip(lines[:-1], expected, strict=True)] == [True] * 3, lines


def test_few_views(tmp_path: Path) -> None:
    whole = generate(0, "training", 3, SIZE)
    few = SceneData(*(getattr(whole, name)[[0, 1, 2, 3]] for name in SceneData.__dataclass_fields__))
    write_scene(few, tmp_path / "root/0/1" / LEVEL)
    assert checked_views(tmp_path / "root", 4) == []
    transpose_view = tmp_path / "root/0/1"
    axes = camera(transpose_view, 2)
    change_camera(transpose_view, 2, origin=(axes["origin"] + 0.06 * axes["x"]).tolist())
    assert [line.partition(": ")[0] for line in checked_views(tmp_path / "root", 4)] == ["reprojection"]


def checked_views(root: Path, views: int) -> list[str]:
    store = open_store(root, progress=False, views=views)
    return [str(defect) for scene in store.scenes() for defect in find_defects(store, scene)]


def test_the_fewest_views_are_blamed() -> None:
    ring = [(i, (i + 1) % 8) for i in range(8)] + [(i, (i + 2) % 8) for i in range(8)]
    pairs = {(min(pair), max(pair)) for pair in ring}
    assert suspect_views({pair: 3 in pair for pair in pairs}) == [3]
    assert suspect_views({pair: 3 in pair or 4 in pair for pair in pairs}) == [3, 4]
    assert suspect_views({pair: pair == (3, 4) for pair in pairs}) == []  # one pair says nothing of either
    assert suspect_views({(0, 1): True}) in ([0], [1])


def test_the_command(copy: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.data", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert (done := run(str(copy))).returncode == 0, done.stderr
    assert "2 scenes checked, 0 with defects" in done.stdout
    transpose(copy / HARMED)
    done = run(str(copy))
    assert done.returncode == 1 and f"reprojection: {HARMED} view 4: " in done.stdout
    assert "2 scenes checked, 1 with defects: 1 reprojection" in done.stdout
    assert (done := run(str(copy / "absent"))).returncode == 2 and "is not a folder" in done.stderr
