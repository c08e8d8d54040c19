"""Solid textures of a procedural scan: diffuse colour as a function of the world point, the same from every view.

Features are 2 to 12 pixels wide: octaves finer than two pixel footprints are left out, so that nothing aliases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array
from scipy.ndimage import map_coordinates

LATTICE = 32
"""Period of the value noise, in lattice cells."""
OCTAVES_MM = (26.0, 13.0, 6.5, 3.2, 1.6, 0.8)
"""Lattice spacings of the noise's octaves."""
PATCH_MM = 110.0
"""Lattice spacing of the noise that lays out the untextured patches."""
PATCH_EDGE = 0.02
"""How much of that noise it takes to fade from a patch to the full texture."""
PLAIN = 0.04
"""Contrast of what is nearly uniform; the sensor's noise hides most of it."""


def random_rotation(rng: np.random.Generator) -> Float[Array, "3 3"]:
    """A rotation uniformly at random (QR of a Gaussian matrix, signs fixed)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


@dataclass(frozen=True)
class Noise:
    """Value noise with a lattice turned at random, in 0..1."""

    lattice: Float[Array, "k k k"]
    turn: Float[Array, "3 3"]
    shift: Float[Array, " 3"]
    spacing: float

    def __call__(self, points: Float[Array, "n 3"]) -> Float[Array, " n"]:
        at = (points @ self.turn) / self.spacing + self.shift
        cell = np.floor(at)
        within = at - cell
        at = cell + within * within * (3 - 2 * within)
        return map_coordinates(self.lattice, at.T, order=1, mode="grid-wrap")


def noise(rng: np.random.Generator, spacing: float) -> Noise:
    lattice = rng.random((LATTICE, LATTICE, LATTICE))
    return Noise(lattice, random_rotation(rng), rng.uniform(0, LATTICE, 3), spacing)


@dataclass(frozen=True)
class Texture:
    """Two colours mixed by a pattern and noise; nearly uniform in patches, or altogether where `contrast` is small."""

    colors: Float[Array, "2 3"]
    pattern: str  # noise, stripes, checks, spots
    octaves: tuple[Noise, ...]
    patches: Noise
    patch_threshold: float
    waves: Float[Array, "3 3"]
    period: float
    contrast: float

    def __call__(self, points: Float[Array, "n 3"], footprint: float) -> Float[Array, "n 3"]:
        """RGB in 0..1 at world points, with what is finer than two footprints (mm per pixel) left out."""
        layers = [octave(points) - 0.5 for octave in self.octaves if octave.spacing >= 2 * footprint]
        mixed = sum(layers) if layers else np.zeros(len(points))
        fade = np.clip(self.period / footprint / 3 - 1, 0, 1)  # patterns of under three pixels vanish
        if self.pattern != "noise" and fade > 0:
            mixed = 0.75 * mixed + fade * self._pattern(points, layers)
        tint = layers[0] if layers else np.zeros(len(points))
        smooth = np.clip((self.patches(points) - self.patch_threshold) / PATCH_EDGE, PLAIN, 1)
        weight = np.clip(0.5 + 0.75 * self.contrast * smooth * mixed, 0, 1)
        color = self.colors[0] + (self.colors[1] - self.colors[0]) * weight[:, None]
        return np.clip(color + 0.25 * (self.contrast * smooth * tint)[:, None] * self.waves[:, 2], 0, 1)

    def _pattern(self, points: Array, layers: list[Array]) -> Array:
        at = points @ self.waves * (2 * np.pi / self.period)
        bend = 3.0 * layers[0] if layers else 0.0
        first, second = np.sin(at[:, 0] + bend), np.sin(at[:, 1] + bend)
        if self.pattern == "stripes":
            return 0.4 * np.tanh(2 * first)
        if self.pattern == "checks":
            return 0.4 * np.tanh(3 * first * second)
        return 0.4 * np.tanh(4 * (first + second + np.sin(at[:, 2]) - 1))


def texture(rng: np.random.Generator, visible: Float[Array, "n 3"], *, plain: bool, patch_share: float) -> Texture:
    """A texture at random for a surface of which `visible` are some points.

    `plain`: nearly uniform all over; `patch_share`: the share of the visible points that lie in nearly uniform patches.
    """
    patches = noise(rng, PATCH_MM)
    dark, bright = rng.uniform(0.06, 0.35, 3), rng.uniform(0.5, 0.95, 3)
    return Texture(
        colors=np.stack((dark, bright)) if rng.random() < 0.5 else np.stack((bright, dark)),
        pattern=str(rng.choice(["noise", "noise", "noise", "stripes", "checks", "spots"])),
        octaves=tuple(noise(rng, spacing) for spacing in OCTAVES_MM),
        patches=patches,
        patch_threshold=float(np.quantile(patches(visible), patch_share)),
        waves=random_rotation(rng),
        period=float(rng.uniform(14, 34)),
        contrast=PLAIN if plain else float(rng.uniform(0.8, 1.2)),
    )
