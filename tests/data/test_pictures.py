"""Pictures and cameras as exporters write them: read rightly, or refused with the true reason, by every reader."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image
from rich.console import Console
from support.gobjaverse_files import view_file, write_root
from support.paths import ROOT

from bench.data.checks.check import check
from bench.data.scene import SceneData
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.data.storage.pixels import decode_picture
from bench.data.storage.store import Broken

ANGLE, RADIUS, DISTANCE, UNIT = 0.8, 0.8, 4.0, 0.45
LIGHT = np.array([0.3, 0.5, 0.8])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))


def cameras(count: int) -> list[np.ndarray]:
    """Camera-to-world (4, 4) of OpenCV axes, on a ring about the origin."""
    poses = []
    for i in range(count):
        azimuth, elevation = 2 * math.pi * i / count, math.radians(20 if i % 2 else -10)
        direction = [math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation)]
        center = DISTANCE * np.array([*direction, math.sin(elevation)])
        forward, right = -center / DISTANCE, np.array([-math.sin(azimuth), math.cos(azimuth), 0])
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(forward, right), forward, center], 1)
        poses.append(pose)
    return poses


def ball(pose: np.ndarray, width: int, height: int, focal: float) -> tuple[np.ndarray, np.ndarray]:
    """RGBA (height, width, 4) of a ball colored by position, and its depth (height, width)."""
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], -1) @ pose[:3, :3].T
    along, square = rays @ pose[:3, 3], (rays**2).sum(-1)
    inside = along**2 - square * (DISTANCE**2 - RADIUS**2)
    hit = inside > 0
    depth = np.where(hit, (-along - np.sqrt(np.maximum(inside, 0))) / square, 0)
    points = pose[:3, 3] + depth[..., None] * rays
    color = np.clip(points / RADIUS / 2 + 0.5, 0, 1) * hit[..., None]
    return np.concatenate([255 * color, 255.0 * hit[..., None]], -1).astype(np.uint8), depth


def write_balls(
    root: Path, width: int, height: int, *, depth: bool = True, save: Callable[[np.ndarray, Path], object] | None = None
) -> Path:
    """One scene of 24 views in OmniObject3D's form; `save` writes a picture, given a path without suffix."""
    folder, frames = root / "ball" / "render", []
    (folder / "images").mkdir(parents=True)
    (folder / "depths").mkdir()
    for i, pose in enumerate(cameras(24)):
        rgba, distance = ball(pose, width, height, width / 2 / math.tan(ANGLE / 2))
        path = folder / "images" / f"r_{i}"
        save(rgba, path) if save else Image.fromarray(rgba).save(f"{path}.png")
        if depth:
            with OpenEXR.File({"type": OpenEXR.scanlineimage}, {"V": distance.astype(np.float32)}) as file:
                file.write(str(folder / "depths" / f"r_{i}_depth.exr"))
        matrix = pose @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"./images/r_{i}", "transform_matrix": matrix.tolist()})
    write_transforms(folder, {"camera_angle_x": ANGLE, "frames": frames})
    return folder


def write_transforms(folder: Path, content: dict[str, object]) -> None:
    (folder / "transforms.json").write_text(json.dumps(content))


def transforms(folder: Path) -> dict[str, object]:
    return json.loads((folder / "transforms.json").read_text())  # type: ignore[no-any-return]


def checked(root: Path, form: str = "omniobject3d") -> tuple[int, list[str]]:
    """Exit code and lines."""
    file = io.StringIO()
    return check(root, Console(file=file, width=200), 1, form=form), file.getvalue().splitlines()


def read(root: Path, size: int | None = None) -> SceneData:
    return open_store(root, form="omniobject3d").read("ball", range(24), size)


def assert_views_agree(data: SceneData) -> None:
    """All points lie on the ball."""
    count = 0
    for i, pose in enumerate(data.camera_to_world):
        row, column = np.nonzero((data.images[i, ..., 3] == 255) & (data.depth[i] > 0))
        z, k = data.depth[i][row, column], data.intrinsics[i]
        local = np.stack([(column + 0.5 - k[0, 2]) / k[0, 0] * z, (row + 0.5 - k[1, 2]) / k[1, 1] * z, z], -1)
        points = local @ pose[:3, :3].T + pose[:3, 3]
        radius = np.linalg.norm(points, axis=-1) / UNIT
        assert np.quantile(np.abs(radius - RADIUS), 0.9) < 0.06 * RADIUS
        count += len(points)
    assert count > 500


SHAPES = [(96, 64), (64, 96), (64, 64), (97, 64)]


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_pictures_that_are_not_square_keep_their_geometry(tmp_path: Path, width: int, height: int) -> None:
    """Padded: read whole, resized, packed, and without a defect."""
    write_balls(tmp_path / "raw", width, height)
    native, side = read(tmp_path / "raw"), max(width, height)
    assert native.images.shape[1:3] == (side, side)
    assert native.intrinsics[0, 0, 0] == pytest.approx(width / 2 / math.tan(ANGLE / 2), rel=1e-6)  # as before padding
    assert_views_agree(native)
    assert_views_agree(read(tmp_path / "raw", 32))
    assert checked(tmp_path / "raw")[0] == 0, checked(tmp_path / "raw")
    pack(tmp_path / "raw", tmp_path / "packed", 32, Console(file=io.StringIO()), workers=1, form="omniobject3d")
    packed = open_store(tmp_path / "packed").read("ball", range(24))
    assert_views_agree(packed)
    assert np.array_equal(packed.images, read(tmp_path / "raw", 32).images)


def test_gobjaverse_pictures_that_are_not_square_are_refused_by_read_check_and_pack(tmp_path: Path) -> None:
    root = write_root(tmp_path / "root", ["0/1"])
    for suffix in (".png",):
        Image.new("RGBA", (24, 16), (9, 9, 9, 255)).save(view_file(root / "0/1", 4, suffix))
    channels = {name: np.ones((16, 24), np.float16) for name in "RGBA"}
    with OpenEXR.File({"type": OpenEXR.scanlineimage}, channels) as file:
        file.write(str(view_file(root / "0/1", 4, "_nd.exr")))
    with pytest.raises(Broken, match="24 × 16 px: those of this format are square"):
        open_store(root, progress=False).read("0/1", [4])
    code, lines = checked(root, "gobjaverse")
    assert code == 1 and "wrong size: 0/1 view 4" in lines[0] and "square" in lines[0]
    with pytest.raises(Exception, match="square"):
        pack(root, tmp_path / "out", 8, Console(file=io.StringIO()), workers=1)


@pytest.mark.parametrize(("width", "height"), [(64, 58), (64, 48), (48, 64)])
def test_check_finds_a_squashed_copy(tmp_path: Path, width: int, height: int) -> None:
    """Pictures and depths resized to squares, cameras as they were."""
    folder = write_balls(tmp_path, width, height)
    for path in folder.glob("images/*.png"):
        Image.open(path).resize((64, 64), Image.Resampling.BOX).save(path)
    for path in folder.glob("depths/*.exr"):
        with OpenEXR.File(str(path), separate_channels=True) as file:
            depth = np.array(file.channels()["V"].pixels)
        squashed = np.array(Image.fromarray(depth).resize((64, 64), Image.Resampling.NEAREST))
        with OpenEXR.File({"type": OpenEXR.scanlineimage}, {"V": squashed}) as file:
            file.write(str(path))
    code, lines = checked(tmp_path)
    assert code == 1 and any(line.startswith("aspect: ball: ") for line in lines), lines


def test_a_camera_of_another_shape_than_its_picture_is_refused(tmp_path: Path) -> None:
    folder = write_balls(tmp_path, 64, 64)
    write_transforms(folder, transforms(folder) | {"w": 96, "h": 64, "fl_x": 113.5, "fl_y": 113.5})
    with pytest.raises(Broken, match=r"camera of 96 × 64 px, but pictures of 64 × 64: they are squashed"):
        read(tmp_path)
    assert checked(tmp_path)[0] == 1


def test_transforms_of_instant_ngp(tmp_path: Path) -> None:
    """fl_x, fl_y, cx, cy, no suffix in file_path, JPEG pictures."""
    folder = write_balls(
        tmp_path, 96, 64, save=lambda rgba, path: Image.fromarray(rgba[..., :3]).save(f"{path}.jpg", quality=95)
    )
    focal = 48 / math.tan(ANGLE / 2)
    content = {"fl_x": focal, "fl_y": focal, "cx": 48.0, "cy": 32.0, "w": 96, "h": 64, "camera_angle_x": 9.9}
    write_transforms(folder, transforms(folder) | content)
    data = read(tmp_path)
    assert data.intrinsics[3, 0, 0] == pytest.approx(focal)
    expected = ball(cameras(24)[3], 96, 64, focal)[0][..., :3].astype(int)
    assert np.abs(data.images[3, 16:80, :, :3].astype(int) - expected).mean() < 3
    assert (data.images[3, 16:80, :, 3] == 255).all() and not data.images[3, :16].any()  # opaque; padding is not
    assert np.linalg.norm(data.camera_to_world[:, :3, 3], axis=1) == pytest.approx(DISTANCE * UNIT)


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "pixels are not square": ({"fl_x": 100, "fl_y": 150}, "focal lengths 100 and 150 px: pixels are not square"),
    "two angles": ({"camera_angle_x": 0.8, "camera_angle_y": 0.5}, "pixels are not square"),
    "off the center": ({"fl_x": 100, "cx": 40, "cy": 32}, "principal point 40, 32 is not the center"),
    "distorted": ({"fl_x": 100, "k1": 0.1}, r"lens distortion \(k1\)"),
    "a fisheye": ({"fl_x": 100, "camera_model": "OPENCV_FISHEYE"}, "camera model OPENCV_FISHEYE is not a pinhole"),
    "negative": ({"fl_x": -100}, "focal lengths -100"),
    "infinite": ({"fl_x": 10**400}, "int too large"),
    "text": ({"fl_x": "wide"}, "could not convert"),
    "nothing": ({"camera_angle_x": None}, "NoneType"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_cameras_that_models_do_not_have_are_refused(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    folder = write_balls(tmp_path, 64, 64)
    write_transforms(folder, transforms(folder) | change)
    with pytest.raises(Broken, match=message):
        read(tmp_path)


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def picture() -> np.ndarray:
    """RGBA (8, 8, 4), gray: left half opaque, right half hidden."""
    rgba = np.full((8, 8, 4), 200, np.uint8)
    rgba[:, :4, :3] = np.linspace(0, 224, 32).reshape(8, 4, 1).astype(np.uint8)
    rgba[..., 3] = np.where(np.arange(8) < 4, 255, 0)
    return rgba


def gray_16(values: np.ndarray) -> bytes:
    return png(Image.fromarray(values.astype(np.uint16) * 257))


def rgba_16(rgba: np.ndarray) -> bytes:
    """By hand: Pillow writes no PNG of 16 bits but gray."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in rgba)
    header = struct.pack(">IIBBBBB", rgba.shape[1], rgba.shape[0], 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


WITH_ALPHA: dict[str, Callable[[np.ndarray], bytes]] = {
    "RGBA": lambda rgba: png(Image.fromarray(rgba)),
    "gray and alpha": lambda rgba: png(Image.fromarray(rgba[..., [0, 3]], "LA")),
    "16 bits": rgba_16,
    "palette": lambda rgba: png(
        Image.fromarray(np.where(rgba[..., 3] > 0, rgba[..., 0], 255).astype(np.uint8), "L").convert("P"),
        transparency=255,
    ),
}


@pytest.mark.parametrize("form", WITH_ALPHA)
def test_pictures_with_alpha_are_read(form: str) -> None:
    rgba = picture()
    decoded = decode_picture(WITH_ALPHA[form](rgba), "picture")
    visible = rgba[..., 3] > 0
    assert np.array_equal(decoded[..., 3], rgba[..., 3]) and np.array_equal(decoded[visible], rgba[visible])


OPAQUE: dict[str, Callable[[np.ndarray], bytes]] = {
    "RGB": lambda gray: png(Image.fromarray(gray).convert("RGB")),
    "gray": lambda gray: png(Image.fromarray(gray)),
    "16 bits gray": gray_16,
    "palette": lambda gray: png(Image.fromarray(gray).convert("P")),
    "JPEG": lambda gray: jpeg(Image.fromarray(gray).convert("RGB")),
}


@pytest.mark.parametrize("form", OPAQUE)
def test_opaque_pictures_are_read_where_alpha_is_not_needed(form: str) -> None:
    gray = np.repeat(np.linspace(0, 224, 8, dtype=np.uint8)[:, None], 8, 1)
    content = OPAQUE[form](gray)
    decoded = decode_picture(content, "picture", opaque=True)
    assert (decoded[..., 3] == 255).all()
    assert np.abs(decoded[..., :3].astype(int) - gray[..., None]).max() <= (6 if form == "JPEG" else 0)
    with pytest.raises(Broken, match="it has no alpha"):
        decode_picture(content, "picture")


def test_pictures_that_are_misread_elsewhere_are_refused() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.fromarray(picture()[..., :3])
    for content in (jpeg(image, exif=turned), png(image, exif=turned)):
        with pytest.raises(Broken, match="EXIF orientation 6"):
            decode_picture(content, "picture", opaque=True)
    with pytest.raises(Broken, match="color model CMYK"):
        decode_picture(jpeg(image.convert("CMYK")), "picture", opaque=True)
    bomb = bytearray(png(image))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(Broken):
        decode_picture(bytes(bomb), "picture", opaque=True)


@pytest.mark.parametrize("form", ["gobjaverse", "omniobject3d"])
def test_hidden_files_beside_scenes_are_ignored(tmp_path: Path, form: str) -> None:
    """As macOS leaves them, in folders and archives."""
    if form == "gobjaverse":
        root = write_root(tmp_path / "root", ["0/1"])
        (root / "0" / "._1").write_bytes(b"x")
        (root / "0" / "._1.tar").write_bytes(b"x")
        (root / "._0").mkdir()
        (view_file(root / "0/1", 3, ".png").parent.parent / "._00003").write_bytes(b"x")
    else:
        root = tmp_path / "root"
        folder = write_balls(root, 64, 64)
        shutil.copytree(root / "ball", root / "._ball")
        (folder / "images" / "._r_0.png").write_bytes(b"x")
    store = open_store(root, progress=False, form=form)
    assert list(store.scenes()) == (["0/1"] if form == "gobjaverse" else ["ball"]) and not store.broken()
    assert checked(root, form)[0] == 0


NOT_UTF8 = b"caf\xe9"


@pytest.mark.parametrize("form", ["gobjaverse", "omniobject3d"])
def test_a_name_that_is_not_utf8_fails_alone(tmp_path: Path, form: str) -> None:
    if form == "gobjaverse":
        root = write_root(tmp_path / "root", ["0/1"])
        shutil.copytree(root / "0/1", root / "0" / NOT_UTF8.decode("utf-8", "surrogateescape"))
    else:
        root = tmp_path / "root"
        write_balls(root, 64, 64)
        shutil.copytree(root / "ball", root / NOT_UTF8.decode("utf-8", "surrogateescape"))
    command = [sys.executable, "-m", "bench.data"]
    done = subprocess.run([*command, "check", str(root), "--data", form], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "bad name: " in done.stdout and "caf\\xe9: the name is not UTF-8" in done.stdout
    assert "2 scenes checked, 1 with defects" in done.stdout
    out = tmp_path / "out"
    pack_command = [*command, "pack", str(root), "--out", str(out), "--size", "16", "--data", form]
    done = subprocess.run(pack_command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "1 scenes" in done.stdout and "1 broken" in done.stdout, done.stderr
    assert set(open_store(out).broken()) == {"0/caf\\xe9" if form == "gobjaverse" else "caf\\xe9"}


def test_long_names_are_read_and_packed_as_far_as_they_can(tmp_path: Path) -> None:
    names = ["0/1", f"0/{'n' * 250}", f"0/{'m' * 254}"]
    root = write_root(tmp_path / "root", names)
    store = open_store(root, progress=False)
    assert set(store.scenes()) == set(names) and not store.broken()
    long = "d" * 254
    shutil.copytree(root / "0", root / long)
    defects = pack(root, tmp_path / "out", 8, Console(file=io.StringIO()), workers=1)
    assert {name[:3] for name in defects} == {"ddd"} and {broken.kind for broken in defects.values()} == {"bad name"}
    assert set(names[:2]) < set(open_store(tmp_path / "out").scenes())


# root reads everything, unless it gives up that right
LIMITED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []


@pytest.mark.skipif(bool(LIMITED) and not shutil.which("setpriv"), reason="root, and no setpriv (util-linux)")
@pytest.mark.parametrize("form", ["gobjaverse", "omniobject3d"])
def test_unreadable_folders_are_skipped_and_named(form: str, tmp_path: Path) -> None:
    """`lost+found`, a folder of another user; and a file that cannot be read is its scene's defect."""
    root = tmp_path / "root"
    root.mkdir()
    if form == "gobjaverse":
        write_root(root, ["0/1", "0/2"])
        (root / "0" / "private").mkdir(mode=0o000)
        secret = view_file(root / "0/2", 3, ".png")
    else:
        write_balls(root, 64, 64)
        shutil.copytree(root / "ball", root / "other")
        secret = root / "other" / "render" / "images" / "r_3.png"
    secret.chmod(0o000)
    (root / "lost+found").mkdir(mode=0o000)
    command = [*LIMITED, sys.executable, "-m", "bench.data", "check", str(root), "--data", form]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "lost+found: the folder cannot be read and is skipped" in done.stderr
    assert ("private: the folder" in done.stderr) == (form == "gobjaverse")
    name = "0/2" if form == "gobjaverse" else "other"
    assert f"unreadable: {name} view 3: Permission denied" in done.stdout
    assert "2 scenes checked, 1 with defects" in done.stdout
