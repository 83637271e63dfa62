"""Attention, MLP and blocks: what more than one part uses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.tensors import Tokens, constant

SH_C0 = 0.28209479177387814  # the constant harmonic: color = 0.5 + SH_C0 · c_0
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def positions(rows: int, cols: int, device: torch.device) -> Int[Tensor, "tokens 2"]:
    """(y, x) of every patch, row by row from the top left."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(cols, device=device), indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], dim=-1)


def positions_with_extra(rows: int, cols: int, extra: int, device: torch.device) -> Int[Tensor, "tokens 2"]:
    """(y, x) of extra tokens, then of patches: extra token i lies below the image, at (rows, i).

    That is where NoPoSplat puts its intrinsics token.
    """
    below = torch.stack([torch.full((extra,), rows, device=device), torch.arange(extra, device=device)], dim=-1)
    return torch.cat([below, positions(rows, cols, device)])


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
    """Multi-head self-attention; `fused` keeps q, k, v in one linear, as croco's checkpoints do.

    `qk_norm`: a LayerNorm over each head's channels of q and k, before RoPE (VGGT). `one_product`: three linears are
    computed as one, from their weights side by side.
    """

    one_product = False

    def __init__(self, dim: int, heads: int, bias: bool, fused: bool, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        else:
            self.q, self.k, self.v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        rope: tuple[Tensor, Tensor] | None = None,
        visible: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """`visible`: the tokens that are attended to; None for all."""
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in self.projections(x))
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if visible is None else visible[:, None, None])
        out: Tensor = self.proj(rearrange(mixed, "b h n d -> b n (h d)"))
        return out

    def projections(self, x: Float[Tensor, "batch tokens dim"]) -> Sequence[Float[Tensor, "batch tokens dim"]]:
        """q, k and v of all heads."""
        if self.fused:
            joined: Tensor = self.qkv(x)
            return joined.chunk(3, dim=-1)
        linears = (self.q, self.k, self.v)
        if not self.one_product:
            return [linear(x) for linear in linears]
        bias = None if self.q.bias is None else torch.cat([linear.bias for linear in linears])
        return F.linear(x, torch.cat([linear.weight for linear in linears]), bias).chunk(3, dim=-1)


class CrossAttention(nn.Module):
    """Multi-head attention of x to a memory of width `memory_dim`, with RoPE on both sides where it is given."""

    def __init__(self, dim: int, memory_dim: int, heads: int, bias: bool, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q_norm, self.k_norm = (nn.LayerNorm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k, self.v = (nn.Linear(memory_dim, dim, bias=bias) for _ in range(2))
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        memory: Float[Tensor, "batch memory memory_dim"],
        rope: tuple[Tensor, Tensor] | None = None,
        memory_rope: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        q, k, v = (
            rearrange(t, "b n (h d) -> b h n d", h=self.heads) for t in (self.q(x), self.k(memory), self.v(memory))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None and memory_rope is not None:
            q, k = rotate(q, *rope), rotate(k, *memory_rope)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


class LayerScale(nn.Module):
    """A learned factor a channel, on a branch before it is added (Touvron et al. 2021)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        return x * self.gamma


def mlp(dim: int, bias: bool, ratio: int = 4) -> nn.Sequential:
    """Two linear maps with exact GELU between them."""
    return nn.Sequential(nn.Linear(dim, ratio * dim, bias=bias), nn.GELU(), nn.Linear(ratio * dim, dim, bias=bias))


class Block(nn.Module):
    """Pre-norm transformer block: attention and a 4× MLP with exact GELU, each added to its input.

    `layer_scale`: the initial factor of each branch's LayerScale, None for none.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        bias: bool,
        fused: bool,
        eps: float,
        qk_norm: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, dim, eps=eps, bias=bias)
        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(dim, heads, bias, fused, qk_norm)
        self.mlp = mlp(dim, bias)
        self.scale1, self.scale2 = (
            nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale) for _ in range(2)
        )

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        rope: tuple[Tensor, Tensor] | None = None,
        visible: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.scale1(self.attn(self.norm1(x), rope, visible))
        out: Tensor = x + self.scale2(self.mlp(self.norm2(x)))
        return out


class ModulatedNorm(nn.Module):
    """LayerNorm, then x · (1 + scale) + shift, both a linear map of SiLU(condition); plain without a condition."""

    def __init__(self, dim: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.modulation = nn.Linear(condition_dim, 2 * dim) if condition_dim else None

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], condition: Float[Tensor, "batch condition"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        x = self.norm(x)
        if self.modulation is None or condition is None:
            return x
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, dim=-1)
        modulated: Tensor = x * (1 + scale) + shift
        return modulated


class ReadingBlock(nn.Module):
    """Cross-attention to a memory where `memory_dim` is not 0, self-attention, MLP; attention without biases (OpenLRM).

    `condition_dim`: of the vector that modulates each LayerNorm, 0 for none.
    """

    def __init__(self, dim: int, heads: int, memory_dim: int, *, condition_dim: int = 0, qk_norm: bool = False) -> None:
        super().__init__()
        norm = partial(ModulatedNorm, dim, condition_dim)
        if memory_dim:
            self.norm_cross, self.cross = norm(), CrossAttention(dim, memory_dim, heads, bias=False, qk_norm=qk_norm)
        self.norm1, self.norm2 = norm(), norm()
        self.attn = Attention(dim, heads, bias=False, fused=True, qk_norm=qk_norm)
        self.mlp = mlp(dim, bias=True)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        memory: Float[Tensor, "batch memory _"] | None,
        condition: Float[Tensor, "batch condition"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        if memory is not None:
            x = x + self.cross(self.norm_cross(x, condition), memory)
        x = x + self.attn(self.norm1(x, condition))
        out: Tensor = x + self.mlp(self.norm2(x, condition))
        return out


class ViewTokens(nn.Module):
    """All views' tokens in one sequence, extra tokens first in each view; with one learned embedding for the first view
    and another for the others where `by_view`."""

    def __init__(self, dim: int, by_view: bool) -> None:
        super().__init__()
        self.embedding = nn.Parameter(0.02 * torch.randn(2, dim)) if by_view else None

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch token dim"]:
        x = tokens.grid.flatten(2, 3)
        if tokens.extra is not None:
            x = torch.cat([tokens.extra, x], dim=2)
        if self.embedding is not None:
            first, others = self.embedding[:1], self.embedding[1:].expand(x.shape[1] - 1, -1)
            x = x + torch.cat([first, others])[:, None]
        return x.flatten(1, 2)


def resampling(
    side: int, size: int, device: torch.device, *, offset: float = 0.0, antialias: bool = False
) -> Float[Tensor, "size side"]:
    """The matrix that resizes `side` entries of a position table to `size`, bicubic.

    With an offset by the scale factor (size + offset) / side (DINO: 0.1), otherwise to the size. As a product with this
    matrix the gradient is deterministic on CUDA, that of `interpolate` is not.
    """
    with torch.autocast(device.type, enabled=False):
        identity = torch.eye(side, device=device)[None, None]
        if offset:
            scale = ((size + offset) / side, 1.0)
            resized = F.interpolate(identity, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
        else:
            resized = F.interpolate(identity, size=(size, side), mode="bicubic", antialias=antialias)
    return resized[0, 0]


class PatchEmbedding(nn.Conv2d):
    """One convolution of stride p: p × p pixels → one token (§2.2)."""

    def __init__(self, patch: int, dim: int, bias: bool, channels: int = 3) -> None:
        super().__init__(channels, dim, kernel_size=patch, stride=patch, bias=bias)


def initialize(module: nn.Module) -> None:
    """Truncated normal of standard deviation 0.02 for linear maps, zero biases: the practice of ViTs."""
    for m in module.modules():
        if isinstance(m, nn.Linear | PatchEmbedding):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def normalize_imagenet(images: Float[Tensor, "*shape 3 height width"]) -> Float[Tensor, "*shape 3 height width"]:
    """[0, 1] → zero mean and unit deviation over ImageNet."""
    mean, std = (constant(images, *values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def exponential_points(xyz: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """xyz/|xyz| · expm1(|xyz|): DUSt3R's depth mode `exp`; the origin stays, with a finite gradient."""
    distance: Tensor = xyz.norm(dim=-1, keepdim=True)
    return xyz / distance.clamp_min(1e-8) * torch.expm1(distance)
