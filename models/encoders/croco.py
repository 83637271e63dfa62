"""E as the ViT of CroCo, DUSt3R and MASt3R: 24 blocks of width 1024 at patch 16, RoPE2D, no class token.

Source: naver/croco models/croco.py, blocks.py, pos_embed.py, as DUSt3R and MASt3R use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from models.layers import Block, PatchEmbedding, initialize, positions_with_extra, rope_angles
from models.parts import EncoderSpec, Problem, at_least_one
from models.tensors import Tokens, TokenSpec, Views, constant


@dataclass(frozen=True)
class Spec(EncoderSpec):
    patch: int = 16
    width: int = 1024
    blocks: int = 24
    heads: int = 16
    rope_base: float = 100.0
    intrinsics_token: bool = field(default=False, metadata={"legacy": False})  # NoPoSplat: one more token a view

    reads_mask: ClassVar[bool] = True
    may_differ = ("intrinsics_token",)
    sizes = {
        "tiny": {"patch": 8, "width": 192, "blocks": 4, "heads": 6},
        "small": {"width": 384, "blocks": 12, "heads": 6},
    }

    @property
    def weights_fix(self) -> dict[str, object]:
        """What every published checkpoint decides, whatever its width and blocks (read from its tensors)."""
        return {"patch": 16, "heads": max(1, self.width // 64), "rope_base": 100.0}

    def tokens(self) -> TokenSpec:
        return TokenSpec(dim=self.width, patch=self.patch, extra=int(self.intrinsics_token))

    @property
    def reads_intrinsics(self) -> bool:
        return self.intrinsics_token

    def problems(self) -> Iterator[Problem]:
        if wrong := at_least_one(self, "patch", "width", "blocks", "heads"):
            yield from wrong
        elif self.width % self.heads:
            yield Problem(
                "heads", f"width {self.width} is not a multiple of heads {self.heads}; choose one that divides it"
            )
        elif self.width // self.heads % 4:
            yield Problem(
                "heads",
                f"RoPE2D needs a head width divisible by 4, {self.width} / {self.heads} is {self.width // self.heads}; "
                "choose other heads or another width",
            )

    def build(self) -> CrocoEncoder:
        return CrocoEncoder(self)


class CrocoEncoder(nn.Module):
    """Images in [0, 1], mapped to [−1, 1] → tokens after the final LayerNorm; each view alone (eq. 3)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.patchify = PatchEmbedding(spec.patch, spec.width, bias=True)
        self.blocks = nn.ModuleList(
            Block(spec.width, spec.heads, bias=True, fused=True, eps=1e-6) for _ in range(spec.blocks)
        )
        self.norm = nn.LayerNorm(spec.width, eps=1e-6)
        if spec.intrinsics_token:
            self.intrinsics = nn.Linear(9, spec.width)
        initialize(self)

    def forward(self, views: Views) -> Tokens:
        batch, count = views.images.shape[:2]
        grid = self.patchify(rearrange(views.images * 2 - 1, "b v c h w -> (b v) c h w"))
        rows, cols = grid.shape[-2:]
        x = rearrange(grid, "n d r c -> n (r c) d")
        extra = int(self.spec.intrinsics_token)
        if extra:
            x = torch.cat([self.intrinsics(normalized_intrinsics(views)).flatten(0, 1)[:, None], x], dim=1)
        visible = None if views.mask is None else F.pad(views.mask.flatten(2).flatten(0, 1), (extra, 0), value=True)
        with torch.autocast(x.device.type, enabled=False):
            where = positions_with_extra(rows, cols, extra, x.device)
            rope = rope_angles(where, self.spec.width // self.spec.heads, self.spec.rope_base)
        for block in self.blocks:
            x = block(x, rope, visible)
        x = rearrange(self.norm(x), "(b v) n d -> b v n d", b=batch, v=count)
        patches = rearrange(x[:, :, extra:], "b v (r c) d -> b v r c d", r=rows)
        return Tokens(  # hidden patches reach no later part
            grid=patches if views.mask is None else patches * views.mask[..., None],
            extra=x[:, :, :extra] if extra else None,
            mask=views.mask,
        )


def normalized_intrinsics(views: Views) -> Float[Tensor, "batch view 9"]:
    """The 3 × 3 matrices in units of the image's width and height, row by row, as NoPoSplat's linear layer reads."""
    assert views.intrinsics is not None, "the model gives intrinsics to every part that reads them"
    height, width = views.images.shape[-2:]
    size = constant(views.intrinsics, width, height, 1)
    return (views.intrinsics / size[:, None]).flatten(-2)
