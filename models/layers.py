"""Attention, MLP and blocks: what more than one part uses."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


def positions(rows: int, cols: int, device: torch.device) -> Int[Tensor, "tokens 2"]:
    """(y, x) of every patch, row by row from the top left."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(cols, device=device), indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], dim=-1)


def rope_angles(
    where: Int[Tensor, "tokens 2"], head_dim: int, base: float
) -> tuple[Float[Tensor, "tokens head_dim"], Float[Tensor, "tokens head_dim"]]:
    """Cosines and sines of RoPE2D: the first half of a head's channels turns with y, the second with x (croco)."""
    quarter = head_dim // 4
    frequencies = base ** (-torch.arange(quarter, device=where.device, dtype=torch.float32) / quarter)
    angles = where[:, :, None].float() * frequencies  # tokens, (y, x), quarter
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return angles.cos(), angles.sin()


def rotate(
    x: Float[Tensor, "batch heads tokens head_dim"],
    cos: Float[Tensor, "tokens head_dim"],
    sin: Float[Tensor, "tokens head_dim"],
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Apply RoPE2D: rotate-half inside each of the two halves."""
    y1, y2, x1, x2 = x.chunk(4, dim=-1)
    turned = torch.cat([-y2, y1, -x2, x1], dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; `fused` keeps q, k, v in one linear, as croco's checkpoints do."""

    def __init__(self, dim: int, heads: int, bias: bool, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], rope: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        qkv = self.qkv(x).chunk(3, dim=-1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in qkv)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


class Block(nn.Module):
    """Pre-norm transformer block: attention and a 4× MLP with exact GELU, each added to its input."""

    def __init__(self, dim: int, heads: int, *, bias: bool, fused: bool, eps: float) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=eps, bias=bias)
        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(dim, heads, bias, fused)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim, bias=bias), nn.GELU(), nn.Linear(4 * dim, dim, bias=bias))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], rope: tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.attn(self.norm1(x), rope)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbedding(nn.Conv2d):
    """One convolution of stride p: p × p pixels → one token (§2.2)."""

    def __init__(self, patch: int, dim: int, bias: bool) -> None:
        super().__init__(3, dim, kernel_size=patch, stride=patch, bias=bias)


def initialize(module: nn.Module) -> None:
    """Truncated normal of standard deviation 0.02 for linear maps, zero biases: the practice of ViTs."""
    for m in module.modules():
        if isinstance(m, nn.Linear | PatchEmbedding):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
