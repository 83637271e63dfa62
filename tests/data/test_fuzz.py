"""Mutated files of every format end as reported broken items, within bounds, and execute nothing."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors.numpy import save
from support.fuzz import Outcome, assert_reported, mutate, run_reader
from support.gobjaverse_files import as_tars, view_file, write_root

from bench.common.errors import UserError
from bench.data.sources import gobjaverse
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import pack
from bench.data.storage.packed import decode_view, encode_view
from bench.data.storage.pixels import decode_exr, decode_picture
from bench.data.storage.raw import decode_camera, read_tar_members
from bench.data.storage.store import PACKED, Broken
from bench.data.storage.transforms import Layout, decode_depth, read_frames
from models import weights
from models.published import WeightsError

SIDE = 12
LAYOUT = Layout(("{path}", "images/{name}"), "depths/{name}.exr")


def misbehave(path: Path) -> None:
    """What the harness must notice, by the content of the file."""
    match path.read_bytes():
        case b"hang":
            time.sleep(60)
        case b"crash":
            os.abort()
        case b"memory":
            bytearray(2**32)
        case b"execute":
            os.system("true")
        case b"report":
            raise UserError(f"{path}: broken")
        case b"raise":
            raise KeyError("x")


def test_the_harness_notices_what_it_is_for(tmp_path: Path) -> None:
    contents = [b"fine", b"hang", b"crash", b"memory", b"execute", b"report", b"raise", b"fine"]
    outcomes = run_reader(misbehave, contents, tmp_path / "file", seconds=2)
    kinds = ["read", "timeout", "crash", "error", "error", "reported", "error", "read"]
    assert [outcome.kind for outcome in outcomes] == kinds
    assert "MemoryError" in outcomes[3].text and "os.system" in outcomes[4].text
    assert_reported([outcomes[0], outcomes[5]], "file")
    with pytest.raises(AssertionError, match="1 of 1"):
        assert_reported([Outcome(0, "error", "KeyError: 'x'")])
    assert mutate(b"abc" * 100, 5) == mutate(b"abc" * 100, 5) != mutate(b"abc" * 100, 6)


def read_picture(path: Path) -> None:
    decode_picture(path.read_bytes(), str(path), opaque=True)


def read_exr(path: Path) -> None:
    decode_exr(path.read_bytes(), str(path))


def read_camera(path: Path) -> None:
    decode_camera(path.read_bytes(), str(path))


def read_transforms(path: Path) -> None:
    read_frames(path, LAYOUT)


def read_tar(path: Path) -> None:
    read_tar_members(path, views=40)
    store = open_store(path.parents[1], progress=False)
    store.read(store.scenes()[0], range(3))


def read_scene_list(path: Path) -> None:
    gobjaverse.Spec(root=str(path.parent / "root"), scene_list=str(path)).open(8, progress=False)


def read_packed(path: Path) -> None:
    store = open_store(path.parent)
    store.read("0/1", [0])


def read_weights(path: Path) -> None:
    try:
        weights.read(path)
    except WeightsError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Format:
    """A file to mutate: its name in a folder that `prepare` fills, and its reader."""

    name: str
    read: Callable[[Path], None]
    prepare: Callable[[Path], object]


def to_bytes(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8))


def write_file(name: str, write: Callable[[io.BytesIO], object]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(to_bytes(write))


def write_exr(folder: Path) -> None:
    channels = {name: np.random.default_rng(0).random((SIDE, SIDE), np.float32) for name in "RGBA"}
    with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels) as file:
        file.write(str(folder / "file.exr"))


def write_camera(folder: Path) -> None:
    root = write_root(folder, ["0/1"])
    (folder / "file.json").write_bytes(view_file(root / "0/1", 0, ".json").read_bytes())


def write_transforms(folder: Path) -> None:
    (folder / "images").mkdir()
    image().save(folder / "images" / "0.png")
    matrix = [[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, 2], [0, 0, 0, 1]]
    frame = {"file_path": "images/0", "transform_matrix": matrix, "w": SIDE, "h": SIDE}
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.7, "frames": [frame, frame]}))


def write_tar(folder: Path) -> None:
    as_tars(write_root(folder / "raw", ["0/1"]), folder)


def write_scene_list(folder: Path) -> None:
    write_root(folder / "root", ["0/1", "0/2", "0/3"])
    (folder / "list.json").write_text('["0/1", "0/2", "0/3"]')


def write_packed(folder: Path) -> None:
    root = write_root(folder / "raw", ["0/1"])
    pack(root, folder / "packed", 8, Console(file=io.StringIO()), workers=1)


TENSORS = {"weight": np.ones((3, 4), np.float32), "bias": np.zeros(3, np.float16)}
STATE = {"model": {name: torch.from_numpy(values) for name, values in TENSORS.items()}}
FORMATS: dict[str, Format] = {
    "png": Format("file.png", read_picture, write_file("file.png", lambda file: image().save(file, "PNG"))),
    "jpeg": Format(
        "file.jpg", read_picture, write_file("file.jpg", lambda file: image().convert("RGB").save(file, "JPEG"))
    ),
    "exr": Format("file.exr", read_exr, write_exr),
    "depth": Format("file.exr", decode_depth, write_exr),  # type: ignore[arg-type]
    "pfm": Format(
        "file.pfm",
        decode_depth,  # type: ignore[arg-type]
        write_file("file.pfm", lambda file: file.write(b"Pf\n12 12\n-1.0\n" + bytes(4 * SIDE**2))),
    ),
    "camera": Format("file.json", read_camera, write_camera),
    "transforms": Format("transforms.json", read_transforms, write_transforms),
    "tar": Format("0/1.tar", read_tar, write_tar),
    "scene list": Format("list.json", read_scene_list, write_scene_list),
    "packed": Format(f"packed/{PACKED}", read_packed, write_packed),
    "safetensors": Format(
        "file.safetensors", read_weights, write_file("file.safetensors", lambda file: file.write(save(TENSORS)))
    ),
    "pth": Format("file.pth", read_weights, write_file("file.pth", lambda file: torch.save(STATE, file))),
    "old pth": Format(
        "file.pth",
        read_weights,
        write_file("file.pth", lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
    ),
}


def fuzz(form: Format, folder: Path, numbers: range) -> list[Outcome]:
    form.prepare(folder)
    content = (folder / form.name).read_bytes()
    assert [outcome.kind for outcome in run_reader(form.read, [content], folder / form.name)] == ["read"]
    return run_reader(form.read, [mutate(content, number) for number in numbers], folder / form.name)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("form", FORMATS)
def test_mutated_files_are_reported(form: str, tmp_path: Path) -> None:
    assert_reported(fuzz(FORMATS[form], tmp_path, range(20)))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMATS)
def test_many_mutated_files_are_reported(form: str, tmp_path: Path) -> None:
    """13 formats × 150: some 2,000."""
    assert_reported(fuzz(FORMATS[form], tmp_path, range(20, 170)))


class Evil:
    """Unpickled, it would run a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_reported(zipped: bool, tmp_path: Path) -> None:
    content = to_bytes(
        lambda file: torch.save({"weight": Evil()}, file, _use_new_zipfile_serialization=zipped)  # type: ignore[arg-type]
    )
    (outcome,) = run_reader(read_weights, [content], tmp_path / "file.pth")
    assert outcome.kind == "reported" and "file.pth" in outcome.text and "nothing else of it is run" in outcome.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("frames", "camera_angle_x", "fl_x", "fl_y", "cx", "w", "h", "k1", "camera_model", "intrinsic_matrix")
FRAMES = st.lists(
    st.fixed_dictionaries({}, optional={"file_path": JSON, "transform_matrix": JSON, "fl_x": JSON}), max_size=3
)
CONTENT = st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON) | {"frames": FRAMES | JSON})


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=CONTENT | JSON)
def test_any_json_is_read_or_reported(content: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_json"
    if not folder.exists():
        folder.mkdir()
        write_transforms(folder)
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    for read in (read_transforms, read_camera):
        try:
            read(path)
        except Broken as broken:
            assert "transforms.json" in broken.path or broken.kind == "missing file"


@settings(max_examples=100, derandomize=True, deadline=None)
@given(content=st.binary(max_size=300), number=st.integers(0, 10_000))
def test_packed_views_are_read_or_refused(content: bytes, number: int) -> None:
    rgba = np.full((4, 4, 4), 200, np.uint8)
    whole = encode_view(rgba, np.ones((4, 4), np.float32), np.zeros((4, 4, 3), np.float32))
    for each in (content, mutate(whole, number)):
        try:
            decode_view(each, 4)
        except Exception as error:
            assert type(error).__name__ in ("error", "ValueError")  # what the store reports


def test_a_packed_view_that_expands_to_gigabytes_is_refused() -> None:
    import zlib

    with pytest.raises(ValueError, match="of more than"):
        decode_view(zlib.compress(bytes(10**8)), 8)


DEEP = b"[" * 100_000


def test_json_nested_too_deeply_is_reported(tmp_path: Path) -> None:
    for name, read in (("transforms.json", read_transforms), ("camera.json", read_camera)):
        (tmp_path / name).write_bytes(b'{"frames": ' + DEEP + b"}")
        with pytest.raises(Broken, match="RecursionError"):
            read(tmp_path / name)
    write_scene_list(tmp_path)
    (tmp_path / "list.json").write_bytes(DEEP)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_scene_list(tmp_path / "list.json")
