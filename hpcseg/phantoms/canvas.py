"""Shapes painted into a volume of Hounsfield units, with partial volume at their surfaces, on smoothly deformed space.

Coordinates are millimetres in the patient: x to the patient's right, y to the front, z to the head. Volumes are z, y,
x. Shapes are given by their depth: mm inside the surface, negative outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpcseg.volumes.boxes import Box
from hpcseg.volumes.resample import resample_cubic

Floats = NDArray[np.float32]
Point = tuple[float, float, float]

AIR = -1000.0  # HU
WARP = 5.0  # mm, standard deviation of the deformation
WHOLE: Box = (slice(None), slice(None), slice(None))


class Canvas:
    """A volume that shapes are painted on, later ones over earlier ones, with partial volume at their surfaces."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int], spacing: Point, top: float) -> None:
        self.rng = rng
        self.volume = np.full(shape, AIR, np.float32)
        self.label = np.zeros(shape, np.uint8)
        self.edge = float(np.mean(spacing))
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(shape, spacing, strict=True)
        )
        self.axes = (z + (top - z[-1]), y, x)
        self.extent = tuple(n * step for n, step in zip(shape, spacing, strict=True))
        grids = np.meshgrid(*self.axes, indexing="ij", copy=True)
        self.z, self.y, self.x = (grid + WARP * self.noise(knot=85.0) for grid in grids)

    def noise(self, knot: float = 45.0) -> Floats:
        """A smooth random field of unit standard deviation over the volume, (Z, Y, X); `knot` is its scale in mm."""
        knots = [max(2, round(extent / knot) + 1) for extent in self.extent]
        field: Floats = self.rng.standard_normal(knots, np.float32)
        field = resample_cubic(field, self.volume.shape)
        field /= field.std()
        return field

    def paint(self, box: Box, depth: Floats, hu: float | Floats, label: int = 0) -> None:
        """Cover `box` with `hu` where `depth` (mm inside the shape) is positive."""
        cover = np.clip(0.5 + depth / self.edge, 0, 1)
        part = self.volume[box]
        part += cover * (hu - part)
        self.label[box][cover > 0.5] = label

    def around(self, low: Point, high: Point) -> Box:
        """The box of voxels that holds the x, y, z extent `low` to `high`, whatever the deformation does."""
        margin = 4 * WARP + self.edge
        bounds = zip(self.axes, reversed(low), reversed(high), strict=True)
        z, y, x = (slice(*np.searchsorted(axis, (lo - margin, hi + margin))) for axis, lo, hi in bounds)
        return z, y, x

    def ellipsoid(self, centre: Point, radii: Point, turn: float = 0.0, tilt: float = 0.0) -> tuple[Box, Floats]:
        """Depth inside an ellipsoid turned about z, then tilted about y (degrees)."""
        reach = max(radii)
        box = self.around(
            (centre[0] - reach, centre[1] - reach, centre[2] - reach),
            (centre[0] + reach, centre[1] + reach, centre[2] + reach),
        )
        x, y, z = self.x[box] - centre[0], self.y[box] - centre[1], self.z[box] - centre[2]
        if turn:
            c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
            x, y = c * x + s * y, c * y - s * x
        if tilt:
            c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
            x, z = c * x + s * z, c * z - s * x
        a, b, c = radii
        unit = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
        slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2) + 1e-6
        return box, unit * (1 - unit) / slope

    def tube(self, points: Sequence[Point], radii: Sequence[float]) -> list[tuple[Box, Floats]]:
        """Depth inside each link of a chain of round tubes through `points`."""
        links = []
        for start, end, r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
            r = max(r0, r1)
            corners = [(min(p, q) - r, max(p, q) + r) for p, q in zip(start, end, strict=True)]
            low, high = zip(*corners, strict=True)
            box = self.around(low, high)
            offset = [self.x[box] - start[0], self.y[box] - start[1], self.z[box] - start[2]]
            along = [q - p for p, q in zip(start, end, strict=True)]
            length = sum(step**2 for step in along)
            share = np.clip(sum(o * step for o, step in zip(offset, along, strict=True)) / length, 0, 1)
            away = sum((o - share * step) ** 2 for o, step in zip(offset, along, strict=True))
            links.append((box, (r0 + (r1 - r0) * share - np.sqrt(away)).astype(np.float32)))
        return links

    def column(self, width: float, depth: float, y: float = 0.0) -> Floats:
        """Depth inside an upright cylinder with a rounded, slightly square section (exponent 2.5)."""
        u, v = np.abs(self.x) / width, np.abs(self.y - y) / depth
        rho = (u * u * np.sqrt(u) + v * v * np.sqrt(v)) ** np.float32(0.4) + 1e-6
        depth_zyx: Floats = np.hypot(self.x, self.y - y) * (1 / rho - 1)
        return depth_zyx
