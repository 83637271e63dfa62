"""The packed form reads as the raw one does, in any process; what is broken is left out and reported."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.gobjaverse_files import LAYOUTS, LEVEL, SIZE, XML, change_camera, view_file, write_root
from support.paths import ROOT

from bench.common.errors import UserError
from bench.data import contact_sheet
from bench.data.scene import VIEWS, SceneData
from bench.data.sources import gobjaverse
from bench.data.storage.open_store import open_store
from bench.data.storage.pack import LOCK, UNFINISHED, pack
from bench.data.storage.packed import DATA, decode_view, encode_view
from bench.data.storage.store import PACKED, Broken
from bench.profiling.benchmarks import data as data_benchmark

NAMES = ("0/10005", "0/10006", "12/34567")
FILE_LIMIT = 110_000  # bytes: more than one packed scene, fewer than three


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_root(tmp_path_factory.mktemp("raw") / "root", NAMES)


@pytest.fixture(scope="module")
def packed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    pack(root, out, SIZE, quiet(), workers=1)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAD_BENCH_CACHE", str(tmp_path / "cache"))


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def assert_equal(data: SceneData, raw: SceneData) -> None:
    assert np.array_equal(data.images, raw.images)
    assert np.array_equal(data.depth, raw.depth.astype(np.float16).astype(np.float32)) and raw.depth.any()
    assert np.abs(data.normals - raw.normals).max() <= 0.5 / 127 + 1e-6 and raw.normals.any()
    assert np.array_equal(data.camera_to_world, raw.camera_to_world)
    assert np.array_equal(data.field_of_view, raw.field_of_view)
    for name in SceneData.__dataclass_fields__:
        assert getattr(data, name).dtype == getattr(raw, name).dtype and getattr(data, name).flags.c_contiguous


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_equals_raw_reading(root: Path, tmp_path: Path, layout: str) -> None:
    source = LAYOUTS[layout](root, tmp_path / "made")
    assert not pack(source, tmp_path / "out", SIZE, quiet(), workers=1)
    store, raw = open_store(tmp_path / "out"), open_store(root, progress=False)
    assert list(store.scenes()) == list(NAMES)
    for name in NAMES:
        views = (27, 3, 3, 39)
        assert_equal(store.read(name, views), raw.read(name, views))
        assert all(map(np.array_equal, store.cameras(name), raw.cameras(name)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [DATA, PACKED]


def test_packed_smaller_than_raw(root: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "out", 6, quiet(), workers=1)
    store, raw = open_store(tmp_path / "out"), open_store(root, progress=False)
    assert_equal(store.read("0/10006", range(VIEWS), 6), raw.read("0/10006", range(VIEWS), 6))
    with pytest.raises(UserError, match="has 6 px, fewer than the 8"):
        store.read("0/10006", (0,), 8)


def test_read_smaller_than_packed(root: Path, packed: Path) -> None:
    data = open_store(packed).read("0/10005", range(VIEWS), SIZE // 2)
    raw = open_store(root, progress=False).read("0/10005", range(VIEWS), SIZE // 2)
    assert np.array_equal(data.images, raw.images)
    assert np.abs(data.depth - raw.depth).max() < 2e-3
    assert np.array_equal(data.depth > 0, raw.depth > 0)
    known = (np.linalg.norm(raw.normals, axis=-1) > 0.5) & (raw.images[..., 3] > 127)
    assert (data.normals * raw.normals).sum(-1)[known].min() > 0.99


def test_hidden_color_is_kept() -> None:
    random = np.random.default_rng(0)
    rgba = random.integers(0, 256, (5, 5, 4), np.uint8)
    rgba[..., 3] = random.integers(0, 2, (5, 5)) * 255
    rgba[0] = 0
    depth, normals = np.where(rgba[..., 3] > 0, np.float32(1.5), 0), np.zeros((5, 5, 3), np.float32)
    assert (rgba[rgba[..., 3] == 0] > 0).any()
    decoded = decode_view(encode_view(rgba, depth.astype(np.float32), normals), 5)
    assert np.array_equal(decoded[0], rgba) and np.array_equal(decoded[1], depth)


def test_broken_scenes_are_left_out_and_reported(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "damaged"))
    shutil.rmtree(copy / "0/10005" / LEVEL / "00011")
    view_file(copy / "12/34567", 9, ".png").write_bytes(XML)
    console = quiet()
    defects = pack(copy, tmp_path / "out", SIZE, console, workers=1)
    kinds = {"0/10005": "missing view", "12/34567": "failed download"}
    assert {scene: defect.kind for scene, defect in defects.items()} == kinds
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 scenes" in printed and "2 broken" in printed and all(kind in printed for kind in kinds.values())
    store = open_store(tmp_path / "out")
    assert list(store.scenes()) == list(NAMES) and set(store.broken()) == set(kinds)  # no other scene changes its split
    with pytest.raises(Broken, match="00009"):
        store.read("12/34567", (0,))
    spec = gobjaverse.Spec(root=str(tmp_path / "out"), split_every=2)
    source = spec.open(SIZE, progress=False)
    assert list(source.scenes("training")) == ["0/10006"] and not source.scenes("evaluation")


def test_nothing_whole_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"all 3 scenes are broken[^$]*has {SIZE} px, fewer than the {2 * SIZE}"):
        pack(root, tmp_path / "out", 2 * SIZE, quiet(), workers=1)
    assert not (tmp_path / "out").exists()


def test_a_stopped_pack_is_resumed(root: Path, tmp_path: Path) -> None:
    """Stopped by a limit on the size of files, as by a full disk."""
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    out = tmp_path / "out"
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_LIMIT}, {FILE_LIMIT}))\n"
        "from bench.common.errors import run_command; from bench.data.__main__ import main; run_command(main)"
    )
    command = [sys.executable, "-c", code, "pack", str(copy), "--out", str(out), "--size", str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "free space and re-run" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()
    with pytest.raises(UserError, match="incomplete pack with other settings"):
        pack(copy, out, SIZE // 2, quiet(), workers=1)
    console = quiet()
    pack(copy, out, SIZE, console, workers=1)
    assert "of 3 scenes" in (printed := console.file.getvalue())  # type: ignore[attr-defined]
    assert printed.split()[0] in ("1", "2")
    assert_equal(open_store(out).read("0/10005", (5,)), open_store(root, progress=False).read("0/10005", (5,)))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("cache", "copy")) == ["out"]
    with pytest.raises(UserError, match="already exists"):
        pack(copy, out, SIZE, quiet(), workers=1)


def test_only_one_packs(root: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / f"{UNFINISHED}out"
    unfinished.mkdir()
    with (unfinished / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            pack(root, tmp_path / "out", SIZE, quiet(), workers=1)


def _sum(store: object, view: int) -> int:
    return int(store.read("0/10005", (view,)).images.sum())  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_other_processes_and_threads_read(packed: Path, method: str) -> None:
    store = open_store(packed)
    expected = [_sum(store, view) for view in range(8)]  # opened here, before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(_sum, [(store, view) for view in range(8)]) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda view: _sum(store, view), range(8))) == expected
    assert [_sum(store, view) for view in range(8)] == expected


def test_damage_is_reported(packed: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(packed, tmp_path / name))

    cut = copied("cut") / DATA
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated"):
        open_store(cut.parent)
    (copied("nothing") / DATA).write_bytes(XML)
    with pytest.raises(UserError, match="damaged"):
        open_store(tmp_path / "nothing")
    (copied("absent") / DATA).unlink()
    with pytest.raises(UserError, match=f"no {DATA}"):
        open_store(tmp_path / "absent")
    meta = copied("newer") / PACKED
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="format 2"):
        open_store(meta.parent)
    with lmdb.open(str(copied("garbled")), lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0/10005\x0000003", b"nonsense")
        transaction.delete(b"0/10005\x0000004")
    store = open_store(tmp_path / "garbled")
    with pytest.raises(Broken, match=r"0/10005 view 3"):
        store.read("0/10005", (3,))
    with pytest.raises(Broken, match="view 00004 is not packed"):
        store.read("0/10005", (4,))


def test_listed_scenes_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(["12/34567", "0/10005"]))
    command = [sys.executable, "-m", "bench.data", "pack", str(root), "--out", str(tmp_path / "out"), "--size", "8"]
    listed = [*command, "--scene-list", str(tmp_path / "list.json")]
    done = subprocess.run(listed, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(open_store(tmp_path / "out").scenes()) == ["0/10005", "12/34567"]


def test_a_sheet_of_any_data(root: Path, packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    view_file(copy / "0/10005", 0, ".png").write_bytes(XML)
    pictures = {}
    for name, path in (("raw", copy), ("packed", packed)):
        console = quiet()
        contact_sheet.contact_sheet_of_root(path, tmp_path / f"{name}.png", 2, 8, 2, VIEWS, console)
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("failed download" in printed) == (name == "raw") and "row 2: " in printed
        pictures[name] = np.array(Image.open(tmp_path / f"{name}.png"))[..., :3]
        assert pictures[name].shape == (2 * 2 * 8, len(contact_sheet.SHEET_VIEWS) * 2 * 8, 3)
    assert np.array_equal(pictures["raw"][:16], pictures["packed"][16:])  # 0/10006
    with pytest.raises(UserError, match="fewer than"):
        contact_sheet.contact_sheet_of_root(packed, tmp_path / "large.png", 2, 2 * SIZE, 1, VIEWS, quiet())


def test_the_benchmark_compares(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", str(SIZE), "--scenes", "2", "--images", "20", "--rounds", "2"]
    assert data_benchmark.main([str(root), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "of 2 scenes" in printed and "images/s/core" in printed
    lines = {line.split("│")[1].strip(): line.split("│") for line in printed.splitlines() if "│" in line}
    assert float(lines["packed"][2]) > float(lines["raw"][2]) > 0 and lines["raw"][4].strip() == "1.0×"


def test_the_command(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    change_camera(copy / "0/10006", 4, x=[0, 0, 0])
    command = [sys.executable, "-m", "bench.data", "pack", str(copy), "--out", str(tmp_path / "out"), "--size", "8"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "2 scenes" in done.stdout and "bad camera" in done.stdout
    assert open_store(tmp_path / "out").read("12/34567", (0,)).images.shape == (1, 8, 8, 4)
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 2 and "already exists" in again.stderr
