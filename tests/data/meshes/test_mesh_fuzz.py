"""Mutated meshes end as reported broken items, within bounds of time and memory."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trimesh
from support.fuzz import assert_reported, mutate, run_reader
from support.meshes import QUAD_MTL, QUAD_OBJ, quad
from test_gltf import RED, Gltf

from bench.data.meshes import loader
from bench.data.meshes.files import MeshFile

LONG = 300  # mutations of each kind of file: 1,500 together


def read(path: Path) -> None:
    loader.load(MeshFile(path))


def read_library(path: Path) -> None:
    """An MTL, by the OBJ beside it."""
    loader.load(MeshFile(path.with_suffix(".obj")))


def sample(kind: str, folder: Path) -> tuple[Path, bytes]:
    """(path, content) of a small valid file that uses much of its format."""
    quad(folder)
    path = folder / f"quad.{kind}"
    if kind == "obj":
        return path, (QUAD_OBJ + "vn 0 1 0\nf 1/1/1 2/2/1 3/3/1\nf -4 -3 -2\nl 1 2\n").encode()
    if kind == "mtl":
        return path, (QUAD_MTL + "d 0.9\nmap_d -s 1 1 paint.png\nnewmtl b\nKd 1 0 0\nTr 0.2\n").encode()
    if kind == "ply":
        return path, trimesh.creation.box().export(file_type="ply", encoding="ascii")
    if kind == "glb":
        return path, trimesh.creation.box().export(file_type="glb")
    gltf = Gltf()
    gltf.mesh(gltf.box(attributes={"TEXCOORD_0": gltf.add(RED)}, material=0))
    gltf.json["skins"] = [{"joints": [0]}]
    content = gltf.write(path).read_bytes()
    assert json.loads(content)
    return path, content


@pytest.mark.parametrize("kind", ["obj", "mtl", "ply", "glb", "gltf"])
@pytest.mark.parametrize("count", [20, pytest.param(LONG, marks=pytest.mark.long)])
def test_mutated_files_are_read_or_reported(kind: str, count: int, tmp_path: Path) -> None:
    path, content = sample(kind, tmp_path)
    outcomes = run_reader(read_library if kind == "mtl" else read, [*map(partial(mutate, content), range(count))], path)
    assert_reported(outcomes, "quad.")
