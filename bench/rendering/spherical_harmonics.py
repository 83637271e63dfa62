"""Real spherical harmonics up to degree 4, with the signs and order of 3D Gaussian splatting."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bench.common.errors import UserError


def degree_of(coefficients: int) -> int:
    """(degree + 1)² → degree. Raises UserError."""
    degree = math.isqrt(coefficients) - 1
    if (degree + 1) ** 2 != coefficients or not 0 <= degree <= 4:
        raise UserError(f"harmonics: {coefficients} coefficients, but degrees 0 to 4 have 1, 4, 9, 16 or 25")
    return degree


def colors(
    harmonics: Float[Tensor, "batch gaussian coefficient 3"],
    means: Float[Tensor, "batch gaussian 3"],
    centers: Float[Tensor, "batch view 3"],
) -> Float[Tensor, "batch view_or_1 gaussian 3"]:
    """max(0, Σ harmonics · basis(mean − camera center) + 0.5); a single view where the degree is 0."""
    degree = degree_of(harmonics.shape[-2])
    if degree == 0:
        return (_basis_0 * harmonics[:, None, :, 0] + 0.5).clamp_min(0)
    directions = torch.nn.functional.normalize(means[:, None] - centers[:, :, None], dim=-1)
    return (torch.einsum("bvgk,bgkc->bvgc", basis(directions, degree), harmonics) + 0.5).clamp_min(0)


_basis_0 = 0.5 * math.sqrt(1 / math.pi)


def basis(directions: Float[Tensor, "*shape 3"], degree: int) -> Float[Tensor, "*shape coefficient"]:
    """Values of the (degree + 1)² functions at unit vectors."""
    x, y, z = directions.unbind(-1)
    pi = math.pi
    values = [torch.full_like(x, _basis_0)]
    if degree >= 1:
        a = math.sqrt(3 / (4 * pi))
        values += [-a * y, a * z, -a * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        a, b = math.sqrt(15 / (4 * pi)), math.sqrt(5 / (16 * pi))
        values += [a * x * y, -a * y * z, b * (3 * zz - 1), -a * x * z, a / 2 * (xx - yy)]
    if degree >= 3:
        a, b = math.sqrt(35 / (32 * pi)), math.sqrt(105 / (4 * pi))
        c, d = math.sqrt(21 / (32 * pi)), math.sqrt(7 / (16 * pi))
        values += [-a * y * (3 * xx - yy), b * x * y * z, -c * y * (5 * zz - 1), d * z * (5 * zz - 3)]
        values += [-c * x * (5 * zz - 1), b / 2 * z * (xx - yy), -a * x * (xx - 3 * yy)]
    if degree >= 4:
        a, b = 0.75 * math.sqrt(35 / pi), 0.75 * math.sqrt(35 / (2 * pi))
        c, d, e = 0.75 * math.sqrt(5 / pi), 0.75 * math.sqrt(5 / (2 * pi)), 3 / 16 * math.sqrt(1 / pi)
        values += [a * x * y * (xx - yy), -b * y * z * (3 * xx - yy), c * x * y * (7 * zz - 1)]
        values += [-d * y * z * (7 * zz - 3), e * (35 * zz * zz - 30 * zz + 3), -d * x * z * (7 * zz - 3)]
        values += [c / 2 * (xx - yy) * (7 * zz - 1), -b * x * z * (xx - 3 * yy)]
        values += [a / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))]
    return torch.stack(values, dim=-1)
