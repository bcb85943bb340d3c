"""Where the boxes of one patch lie: whole numbers only (docs/fidelity.md).

An F-Net sees the same place at several resolutions. A voxel of level l is the mean of a cube of 2^l voxels of level 0.
Every convolution is valid, so the boxes grow with the level; all of them share the target's centre up to rounding.
A U-Net sees one box of level 0 around the target. Boxes are cubes, so one number describes all three axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from hpcseg.errors import BadInput

Triple = tuple[int, int, int]  # z, y, x
Bounds = tuple[int, int]  # first and last
ENCODER_CONVOLUTIONS = 3  # per level (paper 3.1)


class PatchGeometry(Protocol):
    """What sampling, reading and tiling have to know about a network's patches, whichever network it is."""

    @property
    def patch(self) -> int:
        """Edge of the target, in level-0 voxels."""

    @property
    def levels(self) -> int:
        """Number of input boxes, one per resolution, finest first."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Edge of each level's input box, in voxels of that level."""

    @property
    def origins(self) -> tuple[int, ...]:
        """First corner of each level's input box relative to the target's, in level-0 voxels."""

    @property
    def period(self) -> int:
        """Shift of the target, in level-0 voxels, that moves the network's coarsest voxels onto each other."""

    @property
    def phase(self) -> int:
        """Target origin modulo `period` that is cheapest to read."""

    def resized(self, patch: int) -> PatchGeometry:
        """Return the same network's geometry for a target of another edge."""

    def trimmed(self, voxels: int) -> PatchGeometry:
        """Return that for the target's first voxels, where their prediction is the same without the others."""


@dataclass(frozen=True)
class FovealGeometry:
    """Sizes and places of all levels for a cubic target.

    Levels are counted from 0, the finest. Thanks to the rounding up in `features`, every target size works, so that a
    tile for inference is a geometry like any other.

    >>> paper = FovealGeometry(patch=72, kernel=5, levels=4)
    >>> paper.features, paper.inputs, paper.origins
    ((72, 40, 24, 16), (84, 52, 36, 28), (-6, -16, -36, -76))
    >>> paper.reach
    224

    Attributes:
        patch: edge of the target, in level-0 voxels.
        kernel: edge of the convolution kernels; odd.
        levels: number of resolutions.

    Raises:
        BadInput: a number is not positive, or the kernel is even, so that no voxel is its centre.
    """

    patch: int
    kernel: int
    levels: int

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise BadInput(f"patches.size = {self.patch}: the smallest patch is 1 voxel")
        if self.levels < 1:
            raise BadInput(f"network.levels = {self.levels}: an F-Net has at least 1 level")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise BadInput(f"network.kernel = {self.kernel}: sizes come out whole for odd kernels only; {self._odd()}")

    def _odd(self) -> str:
        return "use 1" if self.kernel < 1 else f"use {self.kernel - 1} or {self.kernel + 1}"

    @cached_property
    def features(self) -> tuple[int, ...]:
        """Edge of each level's feature maps, in voxels of that level; also of an autoencoder's code."""
        sizes = [self.patch]
        for _ in range(1, self.levels):
            sizes.append(-(-sizes[-1] // 2) + self.kernel - 1)
        return tuple(sizes)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Edge of each level's input box, in voxels of that level."""
        return tuple(size + ENCODER_CONVOLUTIONS * (self.kernel - 1) for size in self.features)

    @cached_property
    def origins(self) -> tuple[int, ...]:
        """First corner of each level's input box relative to the target's, in level-0 voxels."""
        margin = (self.kernel - 1) // 2
        corner, origins = 0, []  # corner: of the feature maps
        for level in range(self.levels):
            if level:
                corner -= margin << level
            origins.append(corner - (ENCODER_CONVOLUTIONS * margin << level))
        return tuple(origins)

    @property
    def reach(self) -> int:
        """Edge of what the coarsest level sees, in level-0 voxels."""
        return self.inputs[-1] << (self.levels - 1)

    @property
    def period(self) -> int:
        """Edge of a coarsest voxel: shifts by it leave the alignment of every level as it is."""
        return 1 << (self.levels - 1)

    @cached_property
    def phase(self) -> int:
        """Target origin modulo `period` at which every level's box starts on a whole voxel of the stored pyramid."""
        # o_l = (k - 1) - 2^l · 5 (k - 1) / 2, of which the second term is a whole number of level-l voxels.
        return -(self.kernel - 1) % self.period

    def resized(self, patch: int) -> FovealGeometry:
        """Return the geometry of a tile of another edge; origins, period and phase stay."""
        return FovealGeometry(patch, self.kernel, self.levels)

    def trimmed(self, voxels: int) -> FovealGeometry:
        """Return the geometry of the target's first voxels: each of its boxes is the first part of one of these."""
        return self.resized(min(voxels, self.patch))


@dataclass(frozen=True)
class PaddedGeometry:
    """One box of level 0, for a network of padded convolutions (U-Net): the target and a margin on each side.

    Attributes:
        patch: edge of the target, in level-0 voxels.
        margin: voxels that the network sees beyond each face of the target.
        resolutions: of the network, which halves its maps itself.

    Raises:
        BadInput: a number is too small.
    """

    patch: int
    margin: int
    resolutions: int

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise BadInput(f"patches.size = {self.patch}: the smallest patch is 1 voxel")
        if self.margin < 0:
            raise BadInput(f"network.margin = {self.margin}: the smallest margin is 0 voxels")
        if self.resolutions < 1:
            raise BadInput(f"network.levels = {self.resolutions}: a U-Net has at least 1 level")

    @classmethod
    def around(cls, patch: int, resolutions: int) -> PaddedGeometry:
        """Half the patch as the margin, widened until the box is a whole number of the coarsest voxels.

        With an odd patch, one voxel is missing.

        >>> PaddedGeometry.around(patch=72, resolutions=4).inputs
        (144,)
        """
        period = 1 << (resolutions - 1)
        box = -(-2 * patch // period) * period
        return cls(patch, (box - patch) // 2, resolutions)

    @property
    def levels(self) -> int:
        """One: the network is given a single resolution."""
        return 1

    @property
    def inputs(self) -> tuple[int, ...]:
        """Edge of the box, in voxels."""
        return (self.patch + 2 * self.margin,)

    @property
    def origins(self) -> tuple[int, ...]:
        """First corner of the box relative to the target's, in voxels."""
        return (-self.margin,)

    @property
    def period(self) -> int:
        """Edge of a coarsest voxel: tiles that are shifted by it halve their maps in the same places."""
        return 1 << (self.resolutions - 1)

    @property
    def phase(self) -> int:
        """Nought: level 0 is as cheap to read anywhere."""
        return 0

    def resized(self, patch: int) -> PaddedGeometry:
        """Return the geometry of a tile of another edge with the same margin."""
        return PaddedGeometry(patch, self.margin, self.resolutions)

    def trimmed(self, voxels: int) -> PaddedGeometry:
        """Return this one: a prediction depends on where the box ends."""
        return self


@dataclass(frozen=True)
class Lattice:
    """The level-0 positions that are equal to `phase` modulo `step` on every axis."""

    step: int
    phase: int

    def nearest(self, origin_3: Triple) -> Triple:
        """Return the lattice point nearest to `origin_3` (of two, the upper one)."""
        z, y, x = (self._nearest(position) for position in origin_3)
        return z, y, x

    def _nearest(self, position: int) -> int:
        return (position - self.phase + self.step // 2) // self.step * self.step + self.phase


def target_lattice(geometry: PatchGeometry, step: int) -> Lattice:
    """Return the lattice of target origins with the given step that are equal to the geometry's phase.

    The larger the step (up to the period), the fewer voxels a sample reads.

    >>> lattice = target_lattice(FovealGeometry(patch=72, kernel=5, levels=4), step=8)
    >>> lattice, lattice.nearest((0, 1, 11))
    (Lattice(step=8, phase=4), (4, 4, 12))

    Raises:
        BadInput: the step is not positive.
    """
    if step < 1:
        raise BadInput(f"patches.lattice = {step}: the smallest step is 1 voxel")
    return Lattice(step, geometry.phase % step)


def lattice_bounds(shape_zyx: Triple, patch: int, lattice: Lattice, inside: float) -> tuple[Bounds, Bounds, Bounds]:
    """First and last origin, along each axis, of patches that lie within a volume by at least a share of theirs.

    Every patch between them does; where the volume is too small, they are those that have the most of it. The share is
    a product of those along the axes: each gets the same one, but axes along which less fits, so that others have more.

    >>> lattice_bounds((40, 40, 40), 24, Lattice(4, 0), 1.0)
    ((0, 16), (0, 16), (0, 16))
    >>> lattice_bounds((12, 40, 40), 24, Lattice(4, 0), 0.5)  # half of it along z, and so all of it along y and x
    ((-12, 0), (0, 16), (0, 16))

    Args:
        shape_zyx: of the volume.
        patch: edge, in voxels.
        lattice: of the origins.
        inside: from 0 to 1.
    """
    overlaps = [_overlaps(size, patch, lattice) for size in shape_zyx]
    most = [max(found.values()) for found in overlaps]
    least = [0] * 3
    wanted = inside * patch**3
    for rank, axis in enumerate(sorted(range(3), key=most.__getitem__)):
        # The share that this axis and those which fit more of the patch have each.
        each = math.ceil(wanted ** (1 / (3 - rank)) - 1e-9)
        least[axis] = min(most[axis], each)
        wanted /= least[axis] or 1
    z, y, x = (
        [origin for origin, overlap in found.items() if overlap >= wanted_here]
        for found, wanted_here in zip(overlaps, least, strict=True)
    )
    return (z[0], z[-1]), (y[0], y[-1]), (x[0], x[-1])


def _overlaps(size: int, patch: int, lattice: Lattice) -> dict[int, int]:
    """Voxels that a volume and a patch share along an axis, by the patch's origin, ascending, where they share any."""
    step = lattice.step
    first = lattice.phase + step * math.ceil((1 - patch - lattice.phase) / step)
    shared = {origin: min(origin + patch, size) - max(origin, 0) for origin in range(first, size, step)}
    return {origin: voxels for origin, voxels in shared.items() if voxels > 0} or {lattice.phase: 0}
