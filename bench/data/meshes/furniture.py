"""`python -m bench.data furniture --out DIR`: a training set of real models, from Debian's `sweethome3d-furniture`.

Without root: `apt-get download sweethome3d-furniture`, or the .deb from a Debian mirror, and `--package FILE.deb`.

Five libraries of 820 OBJ models, CC0 or CC BY, drawn and collected for Sweet Home 3D. RESERVED ones are for evaluation
and are never rendered here, nor are variants of them; of models that share their geometry one is kept, so that no
split can have variants on both sides. ATTRIBUTION.md names every author and license and must travel with the data.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bench.common.console import progress, track
from bench.common.environment import cores
from bench.common.errors import UserError
from bench.common.paths import cache_dir
from bench.data.meshes import debian, loader, render
from bench.data.meshes.files import MeshFile
from bench.data.meshes.mesh import LONGEST_SIDE

PACKAGE = Path("/usr/share/sweethome3d/furniture")
LIBRARIES = ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Reallusion", "Scopia")
LICENSES = {"BlendSwap-CC-0": "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)"}
CC_BY = "[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/)"
AUTHORS = {"KatorLegaz": "Andrew Kator and Jennifer Legaz", "Reallusion": "Reallusion",
           "Scopia": "Scopia Visual Interfaces Systems, s.l."}  # fmt: skip
RESERVED = {  # for evaluation: number → stem of its file
    9: "cartoon_biplane", 77: "basketball", 81: "fireExtinguisher", 93: "chicken", 96: "horse2", 122: "motorbike",
    146: "hotDog", 270: "hamburger", 274: "siameseCat", 404: "male02", 438: "old_jar", 494: "apples",
    552: "birthday_cake", 571: "sneakers", 586: "dog", 636: "truck", 672: "scooter2", 687: "perceuse-electrique",
}  # fmt: skip
FIRST_ID = 100_000
VARIANT_SIMILARITY = 0.5  # share of the geometry in common (estimated Jaccard index) that makes two models variants
HASHES = 128  # of a model's geometry: the estimate's standard deviation is 0.044 at 0.5


@dataclass(frozen=True)
class Model:
    """One model of the catalogs."""

    number: int  # over all libraries, of models whose file is there
    library: str
    name: str
    path: str  # in the library
    creator: str

    @property
    def scene(self) -> str:
        return f"{LIBRARIES.index(self.library)}/{FIRST_ID + self.number}"


def furniture(out: Path, size: int, package: Path, console: Console, limit: int | None = None) -> int:
    """Render the training set with ATTRIBUTION.md and models.csv, which gives the reason for each model left out.

    Returns the exit code: 0 if any scene exists. Raises UserError.
    """
    package = libraries(package)
    models = catalog(package)
    distinct_models, reasons = choose(models, package, console)
    chosen = distinct_models[:limit]
    _write_tables(out, models, chosen, reasons)  # before the first scene: attribution must travel
    failed = render.render_jobs([render.Job(m.scene, mesh_file(package, m)) for m in chosen], out, size, console)
    rendered = [model for model in chosen if model.scene not in failed]
    _write_tables(out, models, rendered, reasons | {m.number: failed[m.scene] for m in chosen if m.scene in failed})
    reserved, variants = (sum(text.startswith(word) for text in reasons.values()) for word in ("reserved", "variant"))
    console.print(
        f"{len(models)} models: {len(rendered)} rendered, {reserved} reserved for evaluation, {variants} variants of "
        f"others skipped, {len(failed)} not readable → {out}/models.csv",
        soft_wrap=True,
    )
    return 0 if rendered else 1


def _write_tables(out: Path, models: Sequence[Model], rendered: Sequence[Model], reasons: Mapping[int, str]) -> None:
    """ATTRIBUTION.md and models.csv."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "ATTRIBUTION.md").write_text(attribution(rendered), encoding="utf-8")
    included = set(rendered)
    with (out / "models.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("scene", "name", "creator", "library", "file", "left_out"))
        for m in models:
            reason = "" if m in included else reasons.get(m.number, "beyond --limit")
            writer.writerow((m.scene, m.name, m.creator, m.library, m.path, reason))


def libraries(package: Path) -> Path:
    """The folder of the libraries; a .deb is unpacked into the cache, once. Raises UserError."""
    if not package.is_file():
        return package
    folder = cache_dir() / "furniture" / package.stem
    if not all((folder / f"{name}.sh3f").is_file() for name in LIBRARIES):
        with progress(f"unpacking {package}"):
            debian.unpack(package, ".sh3f", folder)
    return folder


def catalog(package: Path) -> list[Model]:
    """All models that the catalogs list and whose file exists, in the catalogs' order.

    Raises UserError where the package is not installed, or is of another version.
    """
    absent = [name for name in LIBRARIES if not (package / f"{name}.sh3f").is_file()]
    if absent:
        raise UserError(
            f"{package} lacks {', '.join(absent)}: apt-get install sweethome3d-furniture, or without root apt-get "
            "download sweethome3d-furniture and --package FILE.deb"
        )
    numbers = count()
    models = [
        Model(next(numbers), library, name, path, creator)
        for library in LIBRARIES
        for name, path, creator in _entries(package / f"{library}.sh3f")
    ]
    stems = {model.number: PurePosixPath(model.path).stem for model in models}
    if different := [number for number, name in RESERVED.items() if stems.get(number) != name]:
        raise UserError(
            f"{package}: number {different[0]} is {stems.get(different[0])}, not {RESERVED[different[0]]}: the "
            "libraries are of another version than 1.8, where the models reserved for evaluation have other numbers"
        )
    return models


def _entries(library: Path) -> Iterator[tuple[str, str, str]]:
    """(name, path, creator) of the models that a library's catalog lists and holds."""
    try:
        with ZipFile(library) as archive:
            text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            files = set(archive.namelist())
    except (BadZipFile, KeyError) as error:
        raise UserError(f"{library} is no furniture library: {error}") from error
    values = dict(re.findall(r"^((?:name|model|creator)#\d+)=(.*?)\s*$", text, re.MULTILINE))
    for key, value in values.items():
        if key.startswith("model#") and (path := value.lstrip("/")) in files:
            number = key.partition("#")[2]
            creator = values.get(f"creator#{number}") or AUTHORS.get(library.stem, "")
            yield values.get(f"name#{number}", path), path, creator.encode().decode("unicode_escape")


def mesh_file(package: Path, model: Model) -> MeshFile:
    """The file of a model."""
    return MeshFile(package / f"{model.library}.sh3f", model.path)


def choose(models: Sequence[Model], package: Path, console: Console) -> tuple[list[Model], dict[int, str]]:
    """(models to render, number → reason of each other: reserved, or variant of a reserved or an earlier model)."""
    jobs = [mesh_file(package, model) for model in models]
    with ProcessPoolExecutor(cores(), mp_context=get_context("forkserver")) as pool:
        results = pool.map(signature, jobs, chunksize=8)
        signatures = list(track(results, "comparing the geometry of models", len(jobs), console))
    reasons = {model.number: "reserved for evaluation" for model in models if model.number in RESERVED}
    distinct_models: list[Model] = []
    distinct = [i for i, model in enumerate(models) if model.number in RESERVED]
    for i, model in enumerate(models):
        if model.number in RESERVED:
            continue
        twin = next((j for j in distinct if are_variants(signatures[i], signatures[j])), None)
        if twin is None:
            distinct_models.append(model)
            distinct.append(i)
        else:
            reasons[model.number] = f"variant of {models[twin].scene}"
    return distinct_models, reasons


def signature(file: MeshFile) -> NDArray[np.uint64] | None:
    """Min-hash (HASHES,) of the triangles' corners on a grid of 1/200 of the object; None for an unreadable file.

    Independent of scale, colors and order of faces.
    """
    try:
        mesh = loader.load(file)
    except UserError:
        return None
    cells = np.unique(np.round(mesh.vertices[np.unique(mesh.faces)] * 200 / LONGEST_SIDE).astype(np.int64), axis=0)
    keys = (cells.astype(np.uint64) * np.array([73856093, 19349663, 83492791], np.uint64)).sum(1)
    random = np.random.default_rng(0).integers(1, 2**63, (2, HASHES), dtype=np.uint64)
    hashed = keys[:, None] * (random[0] | np.uint64(1)) + random[1]
    minima: NDArray[np.uint64] = (hashed ^ (hashed >> np.uint64(29))).min(0)
    return minima


def are_variants(one: NDArray[np.uint64] | None, other: NDArray[np.uint64] | None) -> bool:
    """Whether two models share at least VARIANT_SIMILARITY of their geometry."""
    return one is not None and other is not None and float((one == other).mean()) >= VARIANT_SIMILARITY


def attribution(models: Sequence[Model]) -> str:
    """ATTRIBUTION.md: author and license of each model."""
    lines = [
        "# Attribution", "",
        "Renderings (color, normals, depth, cameras) of the 3D models below, from Debian's package "
        "`sweethome3d-furniture` (upstream: Sweet Home 3D's furniture libraries, "
        "http://www.sweethome3d.com/importModels.jsp; converted to OBJ by Emmanuel Puybaret / eTeks). Changes made: "
        "scaled so that the longest side of the box is 0.9, centered, lit anew and rendered from 40 cameras. The "
        "license of every picture is that of its model; this file must travel with them.", "",
        "| scene | object | author | library | license | file |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {m.scene} | {m.name} | {m.creator} | {m.library}.sh3f | {LICENSES.get(m.library, CC_BY)} | {m.path} |"
        for m in models
    ]
    return "\n".join(lines) + "\n"
