"""Solid textures: color as a function of the point in space, so that all views of a scene agree."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Pattern = Callable[[Points], NDArray[np.float64]]  # (n, 3) → (n,) in [0, 1]: how much of the second color


def _step(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A soft edge at 0, a fiftieth of a period wide: sharp, without aliasing all of it."""
    return np.clip(x * 8 + 0.5, 0, 1)


def _plain(random: np.random.Generator) -> Pattern:
    return lambda p: np.zeros(len(p))


def _stripes(random: np.random.Generator) -> Pattern:
    wave = random.normal(size=3)
    wave *= random.uniform(10, 24) / np.linalg.norm(wave)
    return lambda p: _step(np.sin(p @ wave))


def _checker(random: np.random.Generator) -> Pattern:
    wave, turn = random.uniform(8, 16), np.linalg.qr(random.normal(size=(3, 3)))[0]
    return lambda p: _step(np.prod(np.sin(wave * (p @ turn)), axis=-1) * 3)


def _spots(random: np.random.Generator) -> Pattern:
    centers, radius = random.uniform(-0.5, 0.5, size=(24, 3)), random.uniform(0.07, 0.14)

    def pattern(p: Points) -> NDArray[np.float64]:
        nearest = np.full(len(p), np.inf)
        for center in centers:
            nearest = np.minimum(nearest, ((p - center) ** 2).sum(-1))
        return _step((radius - np.sqrt(nearest)) * 10)

    return pattern


def _noise(random: np.random.Generator) -> Pattern:
    waves, phases = random.normal(size=(12, 3)) * 9, random.uniform(0, 2 * np.pi, 12)
    return lambda p: np.clip(0.5 + np.cos(p @ waves.T + phases).mean(-1) * 1.6, 0, 1)


def _gradient(random: np.random.Generator) -> Pattern:
    direction = random.normal(size=3)
    direction /= np.linalg.norm(direction)
    return lambda p: np.clip(0.5 + p @ direction, 0, 1)


PATTERNS = (_plain, _stripes, _checker, _spots, _noise, _gradient)


def color(random: np.random.Generator) -> NDArray[np.float64]:
    """An RGB color, mostly saturated, seldom gray, never as white as the background."""
    hue, saturation, value = random.uniform(), random.beta(3, 1.5), random.uniform(0.35, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def texture(random: np.random.Generator) -> Callable[[Points], NDArray[np.float64]]:
    """A random solid texture: (n, 3) points of the object's frame → (n, 3) RGB."""
    first, second = color(random), color(random)
    pattern = PATTERNS[random.integers(len(PATTERNS))](random)
    return lambda p: first + pattern(p)[:, None] * (second - first)
