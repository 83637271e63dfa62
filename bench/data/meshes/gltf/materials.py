"""Materials → color, texture, opacity (glTF 2.0, sections 3.8 and 3.9, and extensions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.common.errors import UserError
from bench.data.meshes.gltf.document import Document, Json
from bench.data.meshes.materials import OPAQUE_FROM, Material, linear_to_srgb
from bench.data.meshes.textures import Wrap, decode_texture

WRAPS: dict[int, Wrap] = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
SPECULAR_GLOSSINESS, TRANSFORM = "KHR_materials_pbrSpecularGlossiness", "KHR_texture_transform"
SOURCES = ("EXT_texture_webp", "MSFT_texture_dds", "KHR_texture_basisu")  # other formats of a texture's picture
WARNED = ("KHR_materials_transmission", "KHR_materials_diffuse_transmission")


@dataclass(frozen=True)
class Binding:
    """A material, and where its texture's coordinates come from."""

    material: Material
    set: int = 0  # TEXCOORD_<set>
    transform: NDArray[np.float64] | None = None  # (2, 3) of (u, v, 1), v downwards


class Materials:
    """The materials of a document, each built once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._bindings: dict[int | None, Binding] = {}
        self._pictures: dict[int, Image.Image | None] = {}

    def __getitem__(self, index: int | None) -> Binding:
        if index not in self._bindings:
            material = {} if index is None else self.document.item("materials", index)
            self._bindings[index] = self._build(material, f"materials[{index}]")
        return self._bindings[index]

    def _build(self, material: Json, where: str) -> Binding:
        extensions = material.get("extensions", {})
        for name in WARNED:
            if name in extensions:
                self._warn(f"{where}: {name} is not applied")
        if any(material.get("emissiveFactor", ())):
            self._warn(f"{where}: emission is not applied")
        if SPECULAR_GLOSSINESS in extensions:
            source = extensions[SPECULAR_GLOSSINESS]
            factor, reference = source.get("diffuseFactor"), source.get("diffuseTexture")
        else:
            source = material.get("pbrMetallicRoughness", {})
            factor, reference = source.get("baseColorFactor"), source.get("baseColorTexture")
        linear = np.array(factor or (1, 1, 1, 1), dtype=np.float64)
        if linear.shape != (4,) or not np.isfinite(linear).all():
            raise UserError(f"{where}: its color is not four numbers")
        color = np.array([*linear_to_srgb(linear[:3]), np.clip(linear[3], 0, 1)])
        mode: Literal["OPAQUE", "MASK", "BLEND"] = material.get("alphaMode", "OPAQUE")
        texture, wrap = self._texture(reference, where) if reference else (None, (WRAPS[10497], WRAPS[10497]))
        if mode == "OPAQUE":
            color[3], cutoff = 1, 0.0
            texture = texture.convert("RGB") if texture else None
        else:
            cutoff = OPAQUE_FROM if mode == "BLEND" else float(material.get("alphaCutoff", OPAQUE_FROM))
            cutoff = max(cutoff, 1 / 255)
        transform = (reference or {}).get("extensions", {}).get(TRANSFORM)
        coordinates = (reference or {}).get("texCoord", 0)
        if transform is not None:
            coordinates = transform.get("texCoord", coordinates)
        return Binding(Material(color, texture, cutoff, wrap), coordinates, _matrix(transform, where))

    def _texture(self, reference: Json, where: str) -> tuple[Image.Image | None, tuple[Wrap, Wrap]]:
        texture = self.document.item("textures", reference["index"])
        sampler = self.document.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        wrap = [WRAPS.get(sampler.get(key, 10497)) for key in ("wrapS", "wrapT")]
        if wrap[0] is None or wrap[1] is None:
            raise UserError(f"{where}: its sampler wraps by an unknown mode")
        extensions = texture.get("extensions", {})
        pictures = [texture.get("source"), *(extensions.get(name, {}).get("source") for name in SOURCES)]
        pictures = [index for index in pictures if index is not None]
        picture = None
        for index in pictures:
            picture = picture or self._picture(index, last=index == pictures[-1], where=where)
        if not pictures:
            self._warn(f"{where}: its texture has no picture")
        return picture, (wrap[0], wrap[1])

    def _picture(self, index: int, last: bool, where: str) -> Image.Image | None:
        """Image `index`; None where it is damaged, with a warning where it is the `last` choice."""
        if index in self._pictures:
            return self._pictures[index]
        image = self.document.item("images", index)
        name = str(image.get("uri") or image.get("name") or f"images[{index}]")
        name = f"images[{index}]" if name.startswith("data:") else name[:100]
        picture, problem = None, "not found"
        try:
            if "bufferView" in image:
                content: bytes | None = bytes(self.document.view(image["bufferView"]))
            else:
                content = self.document.resource(image.get("uri", ""))
            picture = decode_texture(content) if content is not None else None
        except UserError as error:
            problem = f"cannot be decoded ({error})"
        if picture is None and last:
            self._warn(f"{where}: {name} {problem}")
        self._pictures[index] = picture
        return picture

    def _warn(self, text: str) -> None:
        self.document.assets.warn(f"{self.document.name}: {text}")


def _matrix(transform: Json | None, where: str) -> NDArray[np.float64] | None:
    """KHR_texture_transform: translation · rotation · scale."""
    if transform is None:
        return None
    offset, scale = transform.get("offset", (0, 0)), transform.get("scale", (1, 1))
    angle = float(transform.get("rotation", 0))
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array(
        [[cosine * scale[0], sine * scale[1], offset[0]], [-sine * scale[0], cosine * scale[1], offset[1]]]
    )
    if not np.isfinite(matrix).all():
        raise UserError(f"{where}: {TRANSFORM} is not finite")
    return matrix
