"""The container: JSON, and buffers in the GLB, embedded or beside the file (glTF 2.0, sections 3.6 and 4)."""

from __future__ import annotations

import base64
import binascii
import json
from functools import cached_property
from typing import Any
from urllib.parse import unquote_to_bytes

from bench.common.errors import UserError
from bench.data.meshes.assets import Assets
from bench.data.meshes.support import GLTF_EXTENSIONS

MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")

Json = dict[str, Any]


class Document:
    """A glTF 2.0 file. Raises UserError for one that is damaged, of another version, or requires what is unknown."""

    def __init__(self, content: bytes, name: str, assets: Assets) -> None:
        self.name, self.assets = name, assets
        text, self._binary = _split(content)
        try:
            self.json = json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"its JSON cannot be read ({error})") from error
        if not isinstance(self.json, dict):
            raise UserError("its JSON is no object")
        self._check_version()
        self._check_extensions()
        self._buffers: dict[int, bytes] = {}

    def item(self, kind: str, index: int) -> Json:
        """Entry `index` of the list `kind`. Raises UserError where there is none."""
        items = self.json.get(kind, [])
        if not isinstance(index, int) or not 0 <= index < len(items):
            raise UserError(f"{kind}[{index}] does not exist")
        return dict(items[index])

    def view(self, index: int) -> memoryview:
        """Bytes of a buffer view. Raises UserError for one outside its buffer, or compressed without a fallback."""
        view = self.item("bufferViews", index)
        meshopt = next((name for name in MESHOPT if name in view.get("extensions", {})), None)
        buffer = self.item("buffers", view["buffer"])
        if meshopt and ("uri" not in buffer and not (view["buffer"] == 0 and self._binary)):
            raise UserError(f"{meshopt} cannot be decoded; export the file without it")
        content = self._buffer(view["buffer"], buffer)
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if min(start, length) < 0 or start + length > len(content):
            raise UserError(f"bufferViews[{index}] is not inside its buffer of {len(content)} bytes")
        return memoryview(content)[start : start + length]

    @cached_property
    def used_extensions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, self.json.get("extensionsUsed", []))))

    def _buffer(self, index: int, buffer: Json) -> bytes:
        if index not in self._buffers:
            content = self._binary if "uri" not in buffer and index == 0 else self.resource(buffer.get("uri", ""))
            if content is None:
                raise UserError(f"buffers[{index}]: {str(buffer.get('uri', 'its data'))[:100]} not found")
            if len(content) < buffer["byteLength"]:
                raise UserError(f"buffers[{index}] is truncated: {len(content)} of {buffer['byteLength']} bytes")
            self._buffers[index] = content
        return self._buffers[index]

    def resource(self, uri: str) -> bytes | None:
        """Content of a URI, embedded or of a file beside; None where there is none. Raises UserError."""
        if uri.startswith("data:"):
            header, comma, data = uri.partition(",")
            try:
                raw = unquote_to_bytes(data)
                return base64.b64decode(raw) if header.endswith(";base64") and comma else raw
            except binascii.Error as error:
                raise UserError(f"embedded data is damaged ({error})") from error
        if "://" in uri:
            raise UserError(f"{uri[:100]}: files on the network are not read; download it")
        return self.assets.find(uri) if uri else None

    def _check_version(self) -> None:
        asset = self.json.get("asset", {})
        version, least = str(asset.get("version", "none")), str(asset.get("minVersion", "2.0"))
        if version.partition(".")[0] != "2" or least != "2.0":
            raise UserError(f"glTF version {version} (at least {least} needed); version 2.0 is read")

    def _check_extensions(self) -> None:
        for name in map(str, self.json.get("extensionsRequired", [])):
            if GLTF_EXTENSIONS.get(name, "refused") in ("warned", "refused"):
                raise UserError(f"it requires the extension {name[:60]}, which is not supported; export without it")
        for name in self.used_extensions:
            if name not in GLTF_EXTENSIONS:
                self.assets.warn(f"{self.name}: the extension {name[:60]} is unknown and not applied")


def _split(content: bytes) -> tuple[bytes, bytes | None]:
    """(JSON, binary chunk) of a GLB; of a text the whole of it. Raises UserError."""
    if not content.startswith(MAGIC):
        return content, None
    version, length = (int.from_bytes(content[i : i + 4], "little") for i in (4, 8))
    if version != 2:
        raise UserError(f"GLB version {version}; version 2 is read")
    if length > len(content):
        raise UserError(f"the GLB is truncated: {len(content)} of {length} bytes")
    position = 12
    chunks: dict[int, bytes] = {}
    while position + 8 <= length:
        size, kind = (int.from_bytes(content[i : i + 4], "little") for i in (position, position + 4))
        if position + 8 + size > length:
            raise UserError("a chunk of the GLB ends beyond the file")
        chunks.setdefault(kind, content[position + 8 : position + 8 + size])
        position += 8 + size
    if JSON_CHUNK not in chunks:
        raise UserError("the GLB has no JSON chunk")
    return chunks[JSON_CHUNK], chunks.get(BINARY_CHUNK)
