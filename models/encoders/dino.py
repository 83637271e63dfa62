"""E as DINO's or DINOv2's ViT: class token, learned positions; DINOv2 adds LayerScale and, optionally, registers.

Source: facebookresearch/dino vision_transformer.py, facebookresearch/dinov2 dinov2/models/vision_transformer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import Block, PatchEmbedding, initialize, normalize_imagenet, resampling
from models.parts import EncoderSpec, Problem, at_least_one
from models.tensors import Tokens, TokenSpec, Views


@dataclass(frozen=True)
class Spec(EncoderSpec):
    """`image_patch`: pixels of the input image that one token's side covers; images are resized by patch / image_patch
    inside E, None for no resizing. Patch 14 needs it: it divides no image side that patches of 8 and 16 divide.
    `table_size`: the image side in pixels, after resizing, at which the position table has one entry a patch.
    """

    version: Literal["dino", "dinov2"] = "dino"
    patch: int = 16
    image_patch: int | None = None
    width: int = 768
    blocks: int = 12
    heads: int = 12
    registers: int = 0
    table_size: int = 224

    sizes = {
        "tiny": {"patch": 8, "width": 192, "blocks": 4, "heads": 6, "table_size": 32},
        "small": {"width": 384, "blocks": 12, "heads": 6, "table_size": 128},
    }
    reads_mask: ClassVar[bool] = True

    @property
    def weights_fix(self) -> dict[str, object]:
        """What every published checkpoint decides and its shapes do not show."""
        return {"heads": max(1, self.width // 64)}

    def tokens(self) -> TokenSpec:
        return TokenSpec(dim=self.width, patch=self.image_patch or self.patch, extra=1 + self.registers)

    def problems(self) -> Iterator[Problem]:
        if wrong := at_least_one(self, "patch", "width", "blocks", "heads", "table_size"):
            yield from wrong
            return
        if self.width % self.heads:
            yield Problem(
                "heads", f"width {self.width} is not a multiple of heads {self.heads}; choose one that divides it"
            )
        if self.table_size % self.patch:
            yield Problem(
                "table_size", f"{self.table_size} px is not a multiple of the patch {self.patch}; choose one that is"
            )
        if self.registers < 0 or (self.registers and self.version == "dino"):
            yield Problem("registers", f"{self.registers}: DINO has none, DINOv2 0 or 4; set version or registers")
        if self.image_patch is not None and self.image_patch < 1:
            yield Problem("image_patch", f"{self.image_patch} is too small: at least 1, or null for no resizing")

    def build(self) -> DinoEncoder:
        return DinoEncoder(self)


class DinoEncoder(nn.Module):
    """Images in [0, 1], normalized by ImageNet's mean and deviation → class token, registers and patch tokens.

    Each view alone; tokens are those after the final LayerNorm.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        second = spec.version == "dinov2"
        side = spec.table_size // spec.patch
        self.patchify = PatchEmbedding(spec.patch, spec.width, bias=True)
        self.class_token = nn.Parameter(torch.empty(1, spec.width))
        self.class_position = nn.Parameter(torch.empty(1, spec.width))
        self.table = nn.Parameter(torch.empty(side, side, spec.width))
        if spec.registers:
            self.registers = nn.Parameter(torch.empty(spec.registers, spec.width))
        if second:
            self.mask_token = nn.Parameter(torch.zeros(1, spec.width))  # read only where patches are masked
        self.blocks = nn.ModuleList(
            Block(spec.width, spec.heads, bias=True, fused=True, eps=1e-6, layer_scale=1.0 if second else None)
            for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        initialize(self)
        for parameter in (self.class_token, self.class_position, self.table):
            nn.init.trunc_normal_(parameter, std=0.02)
        if spec.registers:
            nn.init.normal_(self.registers, std=1e-6)

    def forward(self, views: Views) -> Tokens:
        batch, _, _, height, width = views.images.shape
        images = rearrange(normalize_imagenet(views.images), "b v c h w -> (b v) c h w")
        if self.spec.image_patch is not None:
            size = [side // self.spec.image_patch * self.spec.patch for side in (height, width)]
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        grid = rearrange(self.patchify(images), "n d r c -> n r c d")
        rows = grid.shape[1]
        visible = None if views.mask is None else rearrange(views.mask, "b v r c -> (b v) r c")
        x, attended = self.embed(grid, visible)
        for block in self.blocks:
            x = block(x, None, attended)
        x = rearrange(self.norm(x), "(b v) n d -> b v n d", b=batch)
        extra = 1 + self.spec.registers
        patches = rearrange(x[:, :, extra:], "b v (r c) d -> b v r c d", r=rows)
        return Tokens(  # hidden patches reach no later part
            grid=patches if views.mask is None else patches * views.mask[..., None],
            extra=x[:, :, :extra],
            mask=views.mask,
        )

    def embed(
        self, grid: Float[Tensor, "n rows cols dim"], visible: Tensor | None
    ) -> tuple[Float[Tensor, "n token dim"], Tensor | None]:
        """Class token, registers (which carry no position) and patches, and which of them are attended to.

        Masked patches become DINOv2's mask token; DINO has none, so that they are left out of the attention.
        """
        count, rows, cols, _ = grid.shape
        attended = None
        if visible is not None and self.spec.version == "dinov2":
            grid = torch.where(visible[..., None], grid, self.mask_token.to(grid.dtype))
        elif visible is not None:
            attended = F.pad(visible.flatten(1), (1, 0), value=True)
        patches = (grid + self.positions(rows, cols)).flatten(1, 2)
        head = [(self.class_token + self.class_position).expand(count, -1, -1)]
        if self.spec.registers:
            head.append(self.registers.expand(count, -1, -1))
        return torch.cat([*head, patches], dim=1), attended

    def positions(self, rows: int, cols: int) -> Float[Tensor, "rows cols dim"]:
        """The table at another size: by the scale factor (n + 0.1) / side, with registers to the size, antialiased."""
        side = self.table.shape[0]
        if (rows, cols) == (side, side):
            return self.table
        offset, antialias = (0.0, True) if self.spec.registers else (0.1, False)
        with torch.autocast(self.table.device.type, enabled=False):
            vertical, horizontal = (
                resampling(side, size, self.table.device, offset=offset, antialias=antialias) for size in (rows, cols)
            )
            return torch.einsum("rs,ct,std->rcd", vertical, horizontal, self.table)
