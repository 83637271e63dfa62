"""Materials of an OBJ file: MTL libraries (Wavefront, "Appendix B1: Object Files" and "MTL material format")."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.meshes.assets import Assets
from bench.data.meshes.materials import UNSPECIFIED, Material
from bench.data.meshes.support import MTL, MTL_OPTIONS
from bench.data.meshes.textures import Wrap, with_opacity

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass
class MtlMaterial:
    """One `newmtl`."""

    color: NDArray[np.float64] = field(default_factory=lambda: np.full(3, UNSPECIFIED))  # Kd
    opacity: float | None = None  # d
    transparency: float | None = None  # Tr
    texture: Image.Image | None = None
    mask: Image.Image | None = None
    scale: NDArray[np.float64] = field(default_factory=lambda: np.ones(2))  # of texture coordinates
    offset: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    wrap: Wrap = "repeat"

    def material(self, mapped: bool) -> Material:
        """Of faces with texture coordinates the texture alone is shown, as most viewers do; else Kd."""
        alpha = 1.0 if self.opacity is None else self.opacity
        if self.opacity is None and self.transparency is not None and self.transparency < 1:  # 1: written for opaque
            alpha = 1 - self.transparency
        if not mapped or self.texture is None:
            return Material(np.array([*self.color, alpha]))
        texture = self.texture
        if self.mask is not None and not texture.has_transparency_data:
            texture = with_opacity(texture, self.mask)
        return Material(np.array([1, 1, 1, alpha]), texture, wrap=(self.wrap, self.wrap))


def decode_text(content: bytes) -> str:
    """UTF-8 or UTF-16 by its mark, else UTF-8 where that is valid, else Latin-1."""
    for mark, encoding in BOMS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def statements(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, keyword, rest) of an OBJ or MTL file: without comments and empty lines, continued lines joined."""
    pending, first = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not pending and line.lstrip().startswith("#"):
            continue
        first = first if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        keyword, _, rest = (pending + line).strip().replace("\t", " ").partition(" ")
        pending = ""
        if keyword:
            yield first, keyword, rest.strip()


def read_mtl(content: bytes, name: str, assets: Assets) -> dict[str, MtlMaterial]:
    """The materials of a library by their names; what is not read is listed in `assets.missing` with file:line."""
    materials: dict[str, MtlMaterial] = {}
    material: MtlMaterial | None = None
    for line, word, rest in statements(decode_text(content)):
        where, keyword = f"{name}:{line}", word.lower()
        if keyword == "newmtl":
            material = materials[" ".join(rest.split())] = MtlMaterial()
        elif material is None:
            assets.warn(f"{where}: {word[:40]} before any newmtl is not read")
        elif not rest:
            continue
        elif keyword in ("kd", "d", "tr"):
            _set_number(material, keyword, rest, where, assets)
        elif keyword == "map_kd":
            path = _set_options(material, rest, where, assets)
            material.texture = assets.texture(path, where)
        elif keyword == "map_d":
            material.mask = assets.texture(_set_options(MtlMaterial(), rest, where, assets), where)
        elif keyword not in MTL:
            assets.warn(f"{where}: unknown statement {word[:40]} is not read")
        elif MTL[keyword] == "warned" and not (keyword == "ke" and _is_zero(rest)):
            assets.warn(f"{where}: {word} is not applied")
    return materials


def _set_number(material: MtlMaterial, keyword: str, rest: str, where: str, assets: Assets) -> None:
    """Kd, d or Tr."""
    words = rest.partition("#")[0].split()
    try:
        values = [float(word) for word in words if word != "-halo"]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        assets.warn(f"{where}: {keyword.capitalize()} {rest} is no number")
    elif keyword == "kd":
        rgb = values[:3] if len(values) >= 3 else values[:1] * 3
        material.color = np.clip(np.array(rgb) * 255, 0, 255).round() / 255  # as 8-bit textures are
    elif keyword == "d":
        material.opacity = values[0]
    else:
        material.transparency = values[0]


def _set_options(material: MtlMaterial, rest: str, where: str, assets: Assets) -> str:
    """Apply a texture's options to a material; returns the texture's name, which may have blanks."""
    while rest.startswith("-") and (option := rest.split()[0].lower()) in MTL_OPTIONS:
        support, most = MTL_OPTIONS[option]
        arguments: list[str] = []
        rest = rest[len(option) :].lstrip()
        while rest and len(arguments) < most and (not arguments or _is_number(rest.split()[0])):
            word = rest.split()[0]
            arguments.append(word)
            rest = rest[len(word) :].lstrip()
        numbers = [float(word) for word in arguments if _is_number(word)]
        if option == "-clamp":
            material.wrap = "clamp" if arguments == ["on"] else "repeat"
        elif option in ("-s", "-o") and numbers:
            default = 1.0 if option == "-s" else 0.0
            pair = np.array([*numbers, default, default][:2])
            material.scale, material.offset = (pair, material.offset) if option == "-s" else (material.scale, pair)
        elif support == "warned" and not _is_default(option, numbers):
            assets.warn(f"{where}: {option} {' '.join(arguments)} is not applied")
    return rest


def _is_default(option: str, numbers: list[float]) -> bool:
    return (option == "-mm" and numbers == [0, 1]) or (option == "-t" and not any(numbers))


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _is_zero(rest: str) -> bool:
    return all(_is_number(word) and float(word) == 0 for word in rest.split())
