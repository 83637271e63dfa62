"""Raw G-Objaverse: layouts, cameras, color, depth and normals as stored and resized, and everything broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image
from support.gobjaverse_files import LAYOUTS, LEVEL, SIZE, XML, as_tars, change_camera, scene, view_file, write_root

from bench.common.errors import UserError
from bench.data.scene import VIEWS, SceneData
from bench.data.storage.open_store import open_store
from bench.data.storage.pixels import surface
from bench.data.storage.store import Broken, Store
from bench.data.storage.write import normal_depth, write_exr, write_scene

NAMES = ("0/10005", "0/10006", "12/34567")
REAL = os.environ.get("EAD_BENCH_REAL_SCENES", "")  # a root of real G-Objaverse scenes, if there is one


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("raw") / "root", NAMES)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(root: Path, views: int = VIEWS) -> Store:
    return open_store(root, progress=False, views=views)


def damaged(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "damaged"))


def test_what_is_written_is_read(root: Path) -> None:
    written, read = scene(1), opened(root).read("0/10006", range(VIEWS))
    alpha = written.images[..., 3] / 255
    assert np.array_equal(read.images, written.images) and (alpha > 0.5).sum() > 1000
    assert np.allclose(read.camera_to_world, written.camera_to_world, atol=1e-8)
    assert np.allclose(read.field_of_view, written.field_of_view)
    assert np.abs(read.depth - written.depth)[alpha > 0].max() < 2e-3  # half floats
    assert (read.depth[alpha == 0] == 0).all()
    cosine = (read.normals * written.normals).sum(-1)
    assert cosine[alpha > 0.5].min() > 0.999  # edges, where the file blends them with the background, included
    assert (read.normals[alpha <= 0.5] == 0).all()


def test_files_are_gobjaverses(root: Path) -> None:
    folder = root / "0/10005" / LEVEL / "00025"
    assert sorted(path.name for path in folder.iterdir()) == ["00025.json", "00025.png", "00025_nd.exr"]
    with OpenEXR.File(str(folder / "00025_nd.exr"), separate_channels=True) as file:
        header, channels = file.header(), {n: np.array(c.pixels) for n, c in file.channels().items()}
        assert header["compression"] == OpenEXR.ZIP_COMPRESSION and header["type"] == OpenEXR.scanlineimage
    assert sorted(channels) == ["A", "B", "G", "R"] and {c.dtype for c in channels.values()} == {np.dtype(np.float16)}
    empty = np.array(Image.open(folder / "00025.png"))[..., 3] == 0
    assert empty.any()
    assert [float(channels[name][empty].max()) for name in "RGBA"] == [0, 0, 1, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(root: Path, tmp_path: Path, layout: str) -> None:
    store = opened(LAYOUTS[layout](root, tmp_path / "made"))
    assert store.scenes() == list(NAMES) and not store.broken()
    for name in NAMES:
        expected, data = opened(root).read(name, (3, 27)), store.read(name, (3, 27))
        assert np.array_equal(data.images, expected.images) and np.array_equal(data.depth, expected.depth)
        assert all(map(np.array_equal, store.cameras(name), opened(root).cameras(name)))


def test_layouts_may_be_mixed(root: Path, tmp_path: Path) -> None:
    mixed = as_tars(root, tmp_path / "made")
    (mixed / "0/10005.tar").unlink()
    shutil.copytree(root / "0/10005", mixed / "0/10005")
    assert opened(mixed).scenes() == list(NAMES)


def test_names_that_two_categories_share_are_distinguished(root: Path, tmp_path: Path) -> None:
    for category in ("A", "B"):
        shutil.copytree(root / "0/10005", tmp_path / "both" / category / "0/10005")
    assert opened(tmp_path / "both").scenes() == ["A/0/10005", "B/0/10005"]


def test_a_folder_without_scenes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some" / "folder").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no scene"):
        opened(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        opened(tmp_path / "absent")


def test_folders_are_indexed_once_and_again_when_they_change(root: Path, tmp_path: Path) -> None:
    copy = damaged(root, tmp_path)
    shutil.rmtree(copy / "12/34567" / LEVEL / "00007")
    assert list(opened(copy).broken()) == ["12/34567"]
    shutil.rmtree(copy / "0/10005" / LEVEL / "00007")  # the dictionary's own time of change stays
    shutil.copytree(root / "12/34567" / LEVEL / "00007", copy / "12/34567" / LEVEL / "00007")
    assert not opened(copy).broken()  # what was broken is probed again, what was whole is not
    shutil.copytree(root / "0/10005", copy / "12/99999")
    assert opened(copy).scenes() == [*NAMES, "12/99999"] and not opened(copy).broken()
    shutil.copytree(root / "0/10005", copy / "0/99999")
    assert list(opened(copy).broken()) == ["0/10005"]  # its dictionary changed


def flat(rgba: tuple[int, ...], depth: float) -> tuple[np.ndarray, np.ndarray]:
    """A 12 × 12 view whose left half is opaque, with background on the right that must not bleed in."""
    image = np.zeros((12, 12, 4), np.uint8)
    image[:, :6], image[:, 6:] = rgba, (0, 255, 0, 0)
    alpha = image[..., 3].astype(np.float32) / 255
    normals = np.broadcast_to(np.array([0, 0.6, 0.8], np.float32), (12, 12, 3))
    exr = normal_depth(normals, np.full((12, 12), depth, np.float32), alpha)
    return image, exr.astype(np.float32).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [12, 4, 3, 8, 5, 1])
def test_resizing_keeps_the_background_out(size: int) -> None:
    rgba, depth, normals = surface(*flat((255, 0, 0, 255), 1.5), "view", size)
    visible = rgba[..., 3] > 0
    assert rgba.shape == (size, size, 4) and visible.any()
    assert (rgba[visible][:, 0] >= 253).all() and (rgba[visible][:, 1] <= 2).all()  # no green
    assert np.allclose(depth[visible], 1.5, atol=1e-3) and (depth[~visible] == 0).all()
    assert np.allclose(normals[visible & (rgba[..., 3] > 127)], [0, 0.6, 0.8], atol=1e-3)
    assert np.allclose(rgba[..., 3].mean(), 127.5, atol=1)  # what is covered stays covered


def test_resizing_averages_what_is_seen(root: Path) -> None:
    native, small = (opened(root).read("0/10005", (2,), size) for size in (None, SIZE // 4))
    blocks = [slice(4 * i, 4 * i + 4) for i in range(SIZE // 4)]
    for i, row in enumerate(blocks):
        for j, column in enumerate(blocks):
            weight = native.images[0, row, column, 3] / 255
            assert small.images[0, i, j, 3] == pytest.approx(255 * weight.mean(), abs=1)
            if small.images[0, i, j, 3] > 25:
                mean = (native.depth[0, row, column] * weight).sum() / weight.sum()
                assert small.depth[0, i, j] == pytest.approx(mean, abs=1e-4)
                color = (native.images[0, row, column, :3] * weight[..., None]).sum((0, 1)) / weight.sum()
                assert np.abs(small.images[0, i, j, :3] - color).max() <= 255 / small.images[0, i, j, 3] + 1


def test_pixels_are_not_invented(root: Path) -> None:
    with pytest.raises(UserError, match=f"has {SIZE} px, fewer than the {SIZE * 2}"):
        opened(root).read("0/10005", (0,), SIZE * 2)


def rewrite_exr(path: Path, value: float, where: str) -> None:
    with OpenEXR.File(str(path), separate_channels=False) as file:
        rgba = np.array(file.channels()["RGBA"].pixels)
    alpha = np.array(Image.open(path.with_name(path.name.replace("_nd.exr", ".png"))))[..., 3]
    row, column = np.argwhere(alpha == 255 if where == "seen" else alpha == 0)[0]
    rgba[row, column, 3] = value
    write_exr(path, rgba)


def rotate(folder: Path) -> None:
    change_camera(folder, 4, x=[1, 0, 0], y=[1, 0, 0], z=[0, 0, 1])


ZEROS = {"x": [0, 0, 0], "y": [0, 0, 0], "z": [0, 0, 0], "origin": [0, 0, 0]}
DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a view is absent": ("missing view", lambda f: shutil.rmtree(f / LEVEL / "00004")),
    "a view too many": ("missing view", lambda f: shutil.copytree(f / LEVEL / "00004", f / LEVEL / "00040")),
    "all views are absent": ("missing view", lambda f: [shutil.rmtree(p) for p in (f / LEVEL).iterdir()]),
    "no png": ("missing file", lambda f: view_file(f, 4, ".png").unlink()),
    "no exr": ("missing file", lambda f: view_file(f, 4, "_nd.exr").unlink()),
    "no json": ("missing file", lambda f: view_file(f, 4, ".json").unlink()),
    "xml as png": ("failed download", lambda f: view_file(f, 4, ".png").write_bytes(XML)),
    "xml as exr": ("failed download", lambda f: view_file(f, 4, "_nd.exr").write_bytes(XML)),
    "xml as json": ("failed download", lambda f: view_file(f, 4, ".json").write_bytes(XML)),
    "exr as png": ("wrong magic", lambda f: shutil.copy(view_file(f, 4, "_nd.exr"), view_file(f, 4, ".png"))),
    "png as exr": ("wrong magic", lambda f: shutil.copy(view_file(f, 4, ".png"), view_file(f, 4, "_nd.exr"))),
    "half a png": ("truncated", lambda f: cut(view_file(f, 4, ".png"))),
    "half an exr": ("damaged", lambda f: cut(view_file(f, 4, "_nd.exr"))),
    "half a json": ("truncated", lambda f: cut(view_file(f, 4, ".json"))),
    "an empty png": ("truncated", lambda f: view_file(f, 4, ".png").write_bytes(b"")),
    "a png without alpha": ("damaged", lambda f: Image.new("RGB", (SIZE, SIZE)).save(view_file(f, 4, ".png"))),
    "another size": ("wrong size", lambda f: Image.new("RGBA", (9, 9)).save(view_file(f, 4, ".png"))),
    "nan depth": ("not finite", lambda f: rewrite_exr(view_file(f, 4, "_nd.exr"), np.nan, "seen")),
    "infinite depth": ("not finite", lambda f: rewrite_exr(view_file(f, 4, "_nd.exr"), np.inf, "seen")),
    "nan camera": ("not finite", lambda f: change_camera(f, 4, x_fov=float("nan"))),
    "zero camera": ("zero camera", lambda f: change_camera(f, 4, **ZEROS)),
    "no rotation": ("bad camera", rotate),
    "no field of view": ("bad camera", lambda f: change_camera(f, 4, x_fov=0.0)),
    "json without a camera": ("damaged", lambda f: view_file(f, 4, ".json").write_text('{"x_fov": 0.7}')),
}


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", DAMAGE)
def test_broken_scenes_are_named(root: Path, tmp_path: Path, damage: str) -> None:
    copy = damaged(root, tmp_path)
    kind, harm = DAMAGE[damage]
    harm(copy / "0/10006")
    store = opened(copy)
    with pytest.raises(Broken) as caught:
        store.read("0/10006", range(VIEWS))
    assert caught.value.kind == kind and "10006" in caught.value.path
    assert list(store.scenes()) == list(NAMES)
    assert list(store.broken()) == (["0/10006"] if kind == "missing view" else [])
    assert len(store.read("0/10005", range(VIEWS)).images) == VIEWS


def test_what_is_not_seen_may_be_nan(root: Path, tmp_path: Path) -> None:
    copy = damaged(root, tmp_path)
    rewrite_exr(view_file(copy / "0/10006", 4, "_nd.exr"), np.nan, "unseen")
    data, expected = opened(copy).read("0/10006", (4,)), opened(root).read("0/10006", (4,))
    assert np.array_equal(data.depth, expected.depth) and np.isfinite(data.normals).all()


def drop_blocks(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[: -512 * count])


TARS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "xml": ("failed download", lambda path: path.write_bytes(XML)),
    "cut anywhere": ("truncated", cut),
    "cut at a block": ("truncated", lambda path: drop_blocks(path, 40)),
    "empty": ("truncated", lambda path: path.write_bytes(b"")),
    "a picture": ("wrong magic", lambda path: path.write_bytes(b"\x89PNG" + bytes(2000))),
}


@pytest.mark.parametrize("damage", TARS)
def test_broken_tars_are_found_without_reading_them(root: Path, tmp_path: Path, damage: str) -> None:
    tar_root = as_tars(root, tmp_path / "tars")
    kind, harm = TARS[damage]
    harm(tar_root / "0/10006.tar")
    store = opened(tar_root)
    assert {scene: broken.kind for scene, broken in store.broken().items()} == {"0/10006": kind}
    with pytest.raises(Broken, match=r"10006\.tar"):
        store.read("0/10006", (0,))


def test_a_tar_may_lack_views(root: Path, tmp_path: Path) -> None:
    copy = damaged(root, tmp_path)
    shutil.rmtree(copy / "0/10006" / LEVEL / "00004")
    view_file(copy / "12/34567", 4, ".png").unlink()
    store = opened(as_tars(copy, tmp_path / "tars"))
    with pytest.raises(Broken, match="1 of 40 views are absent"):
        store.cameras("0/10006")
    with pytest.raises(Broken, match="missing file"):
        store.read("12/34567", (4,))


def test_other_numbers_of_views_are_asked_for(tmp_path: Path) -> None:
    whole = scene(0)
    few = SceneData(*(getattr(whole, name)[:6] for name in SceneData.__dataclass_fields__))
    write_scene(few, tmp_path / "root" / "0" / "1" / LEVEL)
    assert opened(tmp_path / "root", views=6).cameras("0/1")[0].shape == (6, 4, 4)
    assert opened(tmp_path / "root").broken()["0/1"].kind == "missing view"


@pytest.mark.skipif(not REAL, reason="EAD_BENCH_REAL_SCENES names no real scenes")
def test_real_views_agree() -> None:
    """Depth of one view, projected into the next."""
    store = opened(Path(REAL))
    assert not store.broken()
    for name in store.scenes()[:2]:
        data = store.read(name, (3, 4))
        row, column = np.nonzero(data.images[0, ..., 3] == 255)
        k, z = data.intrinsics[0], data.depth[0][row, column]
        local = np.stack([(column + 0.5 - k[0, 2]) / k[0, 0] * z, (row + 0.5 - k[1, 2]) / k[1, 1] * z, z], -1)
        world = local @ data.camera_to_world[0, :3, :3].T + data.camera_to_world[0, :3, 3]
        in_camera = (world - data.camera_to_world[1, :3, 3]) @ data.camera_to_world[1, :3, :3]
        u, v = ((in_camera @ k.T)[:, i] / in_camera[:, 2] for i in (0, 1))
        sampled_depth = data.depth[1][v.astype(int), u.astype(int)]
        error = np.abs(sampled_depth - in_camera[:, 2])[data.images[1][v.astype(int), u.astype(int)][:, 3] == 255]
        assert np.median(error) < 2e-3  # of the nearest pixel; one is 5e-3 wide at 256 px
