"""The tensors that flow between the parts, and the conventions of all packages.

Axes
    batch   scenes                      view    input or target views of one scene
    rows    patch rows, H / p           cols    patch columns, W / p
    dim     token width                 coefficient   spherical-harmonics coefficients, (degree + 1)²

Conventions
    Cameras follow OpenCV: x right, y down, z forward. `world_to_camera` maps points of the scene's frame to the
    camera's; `intrinsics` are in pixels, and pixel centers lie at +0.5. Images are RGB in [0, 1]. Quaternions are
    (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Layout = Literal["views", "planes", "set"]
T = TypeVar("T", bound="TensorDataclass")


def constant(like: Tensor, *values: float) -> Float[Tensor, " value"]:
    """Numbers as a tensor of the device and type of another, filled there: for a copy the host would wait."""
    return torch.stack([like.new_full((), value) for value in values])


class TensorDataclass:
    """Dataclasses of tensors that move to a device, or change their type, as one; masks stay boolean."""

    def to(self: T, target: torch.device | str | torch.dtype) -> T:
        moved: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            is_mask = isinstance(value, Tensor) and isinstance(target, torch.dtype) and not value.is_floating_point()
            moves = isinstance(value, Tensor | TensorDataclass) and not is_mask
            moved[field.name] = value.to(target) if moves else value
        return type(self)(**moved)


@dataclass(frozen=True)
class Cameras(TensorDataclass):
    """Pinhole cameras of one image size (`height` × `width` pixels)."""

    world_to_camera: Float[Tensor, "*shape 4 4"]
    intrinsics: Float[Tensor, "*shape 3 3"]
    height: int
    width: int

    @property
    def camera_to_world(self) -> Float[Tensor, "*shape 4 4"]:
        """The rigid inverse."""
        rotation = self.world_to_camera[..., :3, :3].transpose(-1, -2)
        inverse = torch.zeros_like(self.world_to_camera)
        inverse[..., :3, :3] = rotation
        inverse[..., :3, 3:] = -rotation @ self.world_to_camera[..., :3, 3:]
        inverse[..., 3, 3].fill_(1)
        return inverse

    @property
    def centers(self) -> Float[Tensor, "*shape 3"]:
        """Camera centers in the scene's frame."""
        return self.camera_to_world[..., :3, 3]

    def rays(self) -> tuple[Float[Tensor, "*shape 3"], Float[Tensor, "*shape height width 3"]]:
        """Camera centers and the unit directions through all pixel centers, in the scene's frame."""
        x = torch.arange(self.width, device=self.intrinsics.device, dtype=self.intrinsics.dtype) + 0.5
        y = torch.arange(self.height, device=self.intrinsics.device, dtype=self.intrinsics.dtype) + 0.5
        y, x = torch.meshgrid(y, x, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        to_scene = self.camera_to_world[..., :3, :3] @ torch.linalg.inv_ex(self.intrinsics).inverse
        directions = torch.einsum("...ij,hwj->...hwi", to_scene, pixels)
        return self.centers, directions / directions.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Views(TensorDataclass):
    """The input of a model: N images a scene, in [0, 1].

    The model removes what it may not read: `cameras` reach the parts under `poses: known` alone, `intrinsics` (pixels)
    under `poses: known` or `intrinsics: known`. `mask` is True where a patch is visible; None means that all are.
    """

    images: Float[Tensor, "batch view 3 height width"]
    cameras: Cameras | None = None
    intrinsics: Float[Tensor, "batch view 3 3"] | None = None
    mask: Bool[Tensor, "batch view rows cols"] | None = None


@dataclass(frozen=True)
class TokenSpec:
    """What is known of tokens before any exist: what `build` needs of the part before it.

    `patch`: pixels of the input image that one token's side covers (of layout `views`).
    """

    dim: int
    patch: int
    extra: int = 0
    layout: Layout = "views"


@dataclass(frozen=True)
class Tokens(TensorDataclass):
    """T_i of eq. 3, all views of a batch together; `extra` holds class and register tokens.

    The grid by layout: `views` (batch, view, rows, cols, dim); `planes` (batch, plane, rows, cols, dim) with the planes
    xy, xz, zy; `set` (batch, 1, 1, token, dim), latents that belong to no pixel. `mask`: see `Views`.
    """

    grid: Float[Tensor, "batch view rows cols dim"]
    extra: Float[Tensor, "batch view extra dim"] | None = None
    layout: Layout = "views"
    mask: Bool[Tensor, "batch view rows cols"] | None = None


@dataclass(frozen=True)
class Dense:
    """D's output, one named tensor a group of channels: {"means": batch view height width 3, …}.

    Of layout `planes` the view is the plane; of layout `set` the shape is (batch, 1, 1, element, channels).
    """

    channels: Mapping[str, Float[Tensor, "batch view height width _"]]


@dataclass(frozen=True)
class Gaussians(TensorDataclass):
    """G of the paper: μ, r, s, α, c.

    Pixel-aligned ones have the shape (batch, view, height, width), those that belong to no pixel (batch, gaussian).
    """

    means: Float[Tensor, "*shape 3"]
    rotations: Float[Tensor, "*shape 4"]
    scales: Float[Tensor, "*shape 3"]
    opacities: Float[Tensor, "*shape"]
    harmonics: Float[Tensor, "*shape coefficient 3"]

    @property
    def pixel_aligned(self) -> bool:
        """Whether each belongs to one pixel of one input view."""
        return self.means.ndim == 5

    def flat(self) -> Gaussians:
        """(batch, …) → (batch, gaussian): what a rasterizer takes."""
        batch = self.means.shape[0]
        return Gaussians(
            means=self.means.reshape(batch, -1, 3),
            rotations=self.rotations.reshape(batch, -1, 4),
            scales=self.scales.reshape(batch, -1, 3),
            opacities=self.opacities.reshape(batch, -1),
            harmonics=self.harmonics.reshape(batch, -1, *self.harmonics.shape[-2:]),
        )


@dataclass(frozen=True)
class PointMap(TensorDataclass):
    """A 3D point a pixel in the frame of the first view (DUSt3R), with its confidence (≥ 1) and MASt3R's descriptors.

    `descriptors` have unit length; `descriptor_confidence` is positive.
    """

    points: Float[Tensor, "batch view height width 3"]
    confidence: Float[Tensor, "batch view height width"]
    descriptors: Float[Tensor, "batch view height width descriptor"] | None = None
    descriptor_confidence: Float[Tensor, "batch view height width"] | None = None


@dataclass(frozen=True)
class Pixels(TensorDataclass):
    """An RGB image a view, of the input views' size: for cross-view completion (CroCo). Values are not clamped."""

    images: Float[Tensor, "batch view 3 height width"]


@dataclass(frozen=True)
class Triplane(TensorDataclass):
    """θ of LRM: three feature planes (xy, xz, zy) over the cube [−extent, extent]³ and an MLP that decodes them.

    `decoder`: concatenated features (…, 3 · channel) → RGB in [0, 1] (…, 3) and density before its activation (…, 1).
    """

    planes: Float[Tensor, "batch 3 channel rows cols"]
    decoder: nn.Module
    extent: float = 1.0
    samples: int = 96  # along a ray, when it is rendered


Output = TensorDataclass  # Gaussians, PointMap, Pixels, Triplane, or a type of a file of one's own


def tensors_of(value: object) -> Iterator[Tensor]:
    """Every tensor in what flows between the parts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, TensorDataclass | Dense):
        yield from tensors_of(vars(value))
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_of(item)
