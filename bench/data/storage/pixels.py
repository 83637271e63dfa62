"""Picture files → color, depth and normals, checked, and resized without bleeding. No torch here.

Read: PNG and JPEG of 8 or 16 bits a channel, gray, palette or RGB, with or without alpha; OpenEXR. Refused, with the
reason: other color models, an EXIF orientation other than upright, more than MAX_PIXELS.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import OpenEXR
from numpy.typing import NDArray
from PIL import Image, ImageFile

from bench.common.errors import UserError
from bench.data.storage.files import check_magic, reported
from bench.data.storage.store import Broken
from bench.data.storage.write import BACKGROUND

Surface = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]  # RGBA, depth, world normals
PNG_MAGIC, PNG_END, JPEG_MAGIC, EXR_MAGIC = b"\x89PNG\r\n\x1a\n", b"IEND", b"\xff\xd8\xff", b"\x76\x2f\x31\x01"
MAX_PIXELS = 2**26  # of a picture: 8192 × 8192
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF
WITH_ALPHA, OPAQUE, GRAY_16 = ("RGBA", "LA", "PA"), ("RGB", "L", "P", "1"), ("I;16", "I;16B", "I;16L", "I")


def decode_picture(content: bytes, path: str, opaque: bool = False) -> NDArray[np.uint8]:
    """(height, width, 4) RGBA with straight alpha, of a PNG or JPEG.

    `opaque`: whether a picture without alpha is read, as covered everywhere. Raises Broken.
    """
    jpeg = content.startswith(JPEG_MAGIC)
    if not jpeg:
        check_magic(content, PNG_MAGIC, path)
        if PNG_END not in content[-64:]:
            raise Broken("truncated", path, f"{len(content)} bytes without the end of a PNG")
    with reported(path), Image.open(BytesIO(content), formats=["JPEG" if jpeg else "PNG"]) as image:
        _check_size(image.width, image.height, path)
        if (orientation := image.getexif().get(ORIENTATION, UPRIGHT)) != UPRIGHT:
            raise Broken(
                "damaged",
                path,
                f"EXIF orientation {orientation}: it is unknown whether its camera is that of the turned picture; "
                "turn the pixels and remove the tag",
            )
        return _rgba(image, path, opaque)


def _rgba(image: ImageFile.ImageFile, path: str, opaque: bool) -> NDArray[np.uint8]:
    alpha = image.mode in WITH_ALPHA or (image.mode in (*OPAQUE, *GRAY_16) and "transparency" in image.info)
    if not alpha and image.mode not in (*OPAQUE, *GRAY_16):
        raise Broken("damaged", path, f"color model {image.mode} is not supported: convert it to RGBA")
    if not alpha and not opaque:
        raise Broken("damaged", path, f"a picture of mode {image.mode}: it has no alpha")
    if image.mode not in GRAY_16:
        return np.array(image.convert("RGBA"))
    values = np.array(image).astype(np.uint16)  # convert() would clip them to 255
    transparent = image.info.get("transparency")
    rgba = np.repeat((values >> 8).astype(np.uint8)[..., None], 4, axis=-1)
    rgba[..., 3] = 255 if transparent is None else np.where(values == transparent, 0, 255)
    return rgba


def _check_size(width: int, height: int, path: str) -> None:
    if width * height > MAX_PIXELS or min(width, height) < 1:
        raise Broken("damaged", path, f"{width} × {height} px; at most {MAX_PIXELS} pixels are read")


def decode_exr(content: bytes, path: str) -> NDArray[np.float32]:
    """(4, height, width): R, G, B, A as stored. Raises Broken."""
    channels = exr_channels(content, path)
    if missing := [name for name in "RGBA" if name not in channels]:
        raise Broken("damaged", path, f"no channel {', '.join(missing)}")
    with reported(path):
        return np.stack([channels[name] for name in "RGBA"])


def exr_channels(content: bytes, path: str) -> dict[str, NDArray[np.float32]]:
    """Channel → (height, width), of the first part. Raises Broken."""
    check_magic(content, EXR_MAGIC, path)
    with reported(path):
        with OpenEXR.File(BytesIO(content), separate_channels=True, header_only=True) as file:
            low, high = (corner.astype(np.int64) for corner in file.header()["dataWindow"])
            width, height = (high - low + 1).tolist()
            _check_size(width, height, path)
        with OpenEXR.File(BytesIO(content), separate_channels=True, num_threads=0) as file:
            decoded = file.channels().items() if file.parts else ()
            channels = {name: channel.pixels.astype(np.float32) for name, channel in decoded}  # copies: they go with it
    if not channels:
        raise Broken("damaged", path, f"{len(content)} bytes that cannot be decoded, cut short or corrupt")
    return channels


def decode_pfm(content: bytes, path: str) -> NDArray[np.float32]:
    """(height, width) of a gray PFM. Raises Broken."""
    check_magic(content, b"Pf", path)
    with reported(path, "truncated"), Image.open(BytesIO(content), formats=["PPM"]) as image:
        _check_size(image.width, image.height, path)
        return np.array(image, np.float32)


def surface(rgba: NDArray[np.uint8], normal_depth: NDArray[np.float32], path: str, size: int | None = None) -> Surface:
    """One view of G-Objaverse, resized to `size` a side: depth A / alpha, normals unblended from the background's.

    Args:
        rgba: (height, width, 4).
        normal_depth: (4, height, width), as stored; it is overwritten.

    Raises Broken.
    """
    height, width = rgba.shape[:2]
    if height != width:
        raise Broken("wrong size", path, f"its picture has {width} × {height} px: those of this format are square")
    if rgba.shape[:2] != normal_depth.shape[1:]:
        raise Broken("wrong size", path, f"{normal_depth.shape[1:]}, but its picture {rgba.shape[:2]}")
    np.copyto(normal_depth, np.float32(0), where=rgba[..., 3] == 0)
    if not np.isfinite(normal_depth).all():
        count = int((~np.isfinite(normal_depth)).any(0).sum())
        raise Broken("not finite", path, f"{count} pixels where something is seen")
    alpha = rgba[..., 3] * np.float32(1 / 255)
    return resized(rgba, normal_depth[3], alpha, unblend(normal_depth[:3], alpha), size)


def padded_to_square(
    rgba: NDArray[np.uint8], depth: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A picture (height, width, 4) and its depth (height, width), with nothing added on both sides of the shorter axis.

    Pixels stay square. Where an odd number is added, the center is half a pixel off.
    """
    height, width = depth.shape
    side = max(height, width)
    rows, columns = (side - height) // 2, (side - width) // 2
    pads = (rows, side - height - rows), (columns, side - width - columns)
    return np.pad(rgba, (*pads, (0, 0))), np.pad(depth, pads)


def resized(
    rgba: NDArray[np.uint8],
    weighted_depth: NDArray[np.float32],
    weight: NDArray[np.float32],
    normals: NDArray[np.float32],
    size: int | None,
) -> Surface:
    """Smaller pixels average the area that they cover. Color: premultiplied, so that nothing hidden bleeds in. Depth:
    mean of weighted depth over mean weight, that is the mean of what is seen, by its coverage. Normals (3, height,
    width): mean by weight, unit length. Depth and normals are 0 where nothing is, or nothing is known."""
    if size is not None and size != len(rgba):
        normals = np.stack([area(n * weight, size) for n in normals])
        normals /= np.maximum(np.sqrt((normals**2).sum(0)), 1e-6)
        weight, weighted_depth = area(weight, size), area(weighted_depth, size)
        rgba = np.array(Image.fromarray(rgba).resize((size, size), Image.Resampling.BOX))  # premultiplies RGBA itself
    known = (rgba[..., 3] > 0) & (weight > 0)
    depth = np.divide(weighted_depth, weight, out=np.zeros_like(weight), where=known)
    return rgba, depth, np.ascontiguousarray(normals.transpose(1, 2, 0))


def unblend(rgb: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """World normals (−R, −B, G), planes (3, height, width), where alpha is above one half; 0 elsewhere.

    At an edge the stored vector s is the normal n blended with the background b, at whatever length:
    t·s = alpha·n + (1 − alpha)·b with |n| = 1, which one t > 0 solves.
    """
    normals = np.stack([-rgb[0], -rgb[2], rgb[1]])
    np.copyto(normals, np.float32(0), where=alpha <= 0.5)
    row, column = np.nonzero((alpha > 0.5) & (alpha < 1))
    stored, share = rgb[:, row, column], alpha[row, column]
    square = np.maximum((stored**2).sum(0), 1e-12)
    half = (1 - share) * (BACKGROUND @ stored)
    length = (half + np.sqrt(np.maximum(half**2 + square * (2 * share - 1), 0))) / square
    x, y, z = (length * stored - (1 - share) * BACKGROUND[:, None]) / share
    normals[:, row, column] = -x, -z, y
    return normals


def area(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(height, width) → (size, size): the mean of the area under each new pixel."""
    return np.array(Image.fromarray(values).resize((size, size), Image.Resampling.BOX))


def refuse_larger(rgba: NDArray[np.uint8], size: int | None, path: str) -> None:
    """Raise UserError where pixels would have to be invented."""
    if size is not None and size > min(rgba.shape[:2]):
        raise UserError(f"{path} has {rgba.shape[1]} px, fewer than the {size} asked for (model.image_size)")
