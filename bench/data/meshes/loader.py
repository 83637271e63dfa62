"""A mesh file of any supported format → a normalized mesh.

The readers are our own: trimesh, which this project's tests compare them with, silently drops what it cannot
read (sparse accessors, fans, second texture coordinates, materials); `support` states what each of them reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets, readable
from bench.data.meshes.files import MeshFile
from bench.data.meshes.gltf.reader import read_gltf
from bench.data.meshes.mesh import Mesh, Part, assemble
from bench.data.meshes.obj import read_obj
from bench.data.meshes.off import read_off
from bench.data.meshes.ply import read_ply
from bench.data.meshes.stl import read_stl

Reader = Callable[[bytes, str, Assets], list[Part]]  # (content, file name for messages, files beside it)
Up = Literal["auto", "y", "z"]  # the file's axis that points up
READERS: dict[str, Reader] = {
    ".obj": read_obj, ".glb": read_gltf, ".gltf": read_gltf, ".ply": read_ply, ".stl": read_stl, ".off": read_off,
}  # fmt: skip
Z_UP = (".ply", ".stl", ".off")  # by custom; the others are y-up


def load(file: MeshFile, up: Up = "auto") -> Mesh:
    """All surfaces of a file. Raises UserError for a file of which any geometry cannot be read.

    What else of it cannot be read (materials, textures, lines) is listed in the mesh's `missing`.
    """
    content, assets = file.open()
    z_up = file.suffix in Z_UP if up == "auto" else up == "z"
    name = readable(PurePosixPath(file.member or file.path.name).name)
    try:
        parts = READERS[file.suffix](content, name, assets)
        mesh = assemble(parts, z_up)
    except UserError as error:
        raise UserError(f"{file}: {readable(str(error))}") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a mesh ({type(error).__name__}: {error})") from error
    more = (f"… {assets.omitted} more",) if assets.omitted else ()
    return replace(mesh, missing=(*assets.missing, *more))
