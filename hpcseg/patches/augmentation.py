"""Patches seen moved, turned and scaled (the paper's augmentation variant, 3.2.2), drawn from the same counters.

A patch shows, at position p, the volume at centre + shift + matrix · (p + u(p) − centre), where u is nought unless
patches are deformed (`elastic`). Every level and the label of a patch have the same transform. Each level is
interpolated in its own stored grid, so no level has to be aligned. Only a box of stored voxels is read; the device that
trains interpolates within it (`interpolation`).

Positions are level-0 voxels, z y x; a voxel of level l has its centre at (j + ½) 2^l − ½.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcseg.config import AugmentationConfig
from hpcseg.patches.geometry import Triple
from hpcseg.volumes.store import LEVELS

_SLACK = 1e-3  # voxels by which float32 positions may miss the exact ones; they miss by much less
_STEEPEST = 25.0  # degrees, see `growth`


@dataclass(frozen=True)
class Transform:
    """An affine map around a centre: `matrix_33` without unit, `shift_3` and `centre_3` in level-0 voxels.

    `controls_3NNN`, level-0 voxels: matrix · c for the control vectors c of u; None: u is nought.
    """

    matrix_33: NDArray[np.float64]
    shift_3: NDArray[np.float64]
    centre_3: NDArray[np.float64]
    controls_3NNN: NDArray[np.float64] | None = None


class View(NamedTuple):
    """A transformed cube, and the box of stored voxels in which it lies with all neighbours.

    Attributes:
        level: the stored level.
        start_3: first voxel of the box, in voxels of that level; may lie outside the volume.
        shape_3: of the box.
        map_34: where in the box voxel (z, y, x) of the cube lies: map[:, :3] · (z, y, x) + map[:, 3], and as much
            further as the control vectors say.
    """

    level: int
    start_3: Triple
    shape_3: Triple
    map_34: NDArray[np.float64]


def draw_transform(
    config: AugmentationConfig, generator: np.random.Generator, centre_3: Sequence[float], controls: int = 0
) -> Transform:
    """Draw the transform of one patch: uniform translation per axis, rotation about each axis, one log-scale.

    Then, for each axis, whether it is mirrored where it may be, and uniform control vectors.

    Args:
        config: largest values of each.
        generator: of the patch's transform, see `hpcseg.patches.sampling.Draw`.
        centre_3: of the target.
        controls: control points along an axis; 0: patches are not deformed.
    """
    shift_3 = generator.uniform(-config.translation, config.translation, 3)
    angles = np.radians(generator.uniform(-config.rotation, config.rotation, 3))
    scale = math.exp(generator.uniform(-config.log_scale, config.log_scale))
    mirrored_3 = (generator.random(3) < 0.5) & [axis in config.mirror for axis in "zyx"]
    matrix_33 = rotation(angles.tolist(), scale) * np.where(mirrored_3, -1.0, 1.0)
    bend = None
    if controls:
        vectors_3NNN = generator.uniform(-config.elastic, config.elastic, (3, *(controls,) * 3))
        bend = np.einsum("ij,jzyx->izyx", matrix_33, vectors_3NNN)
    return Transform(matrix_33, shift_3, np.asarray(centre_3, np.float64), bend)


def rotation(angles_3: Sequence[float], scale: float = 1.0) -> NDArray[np.float64]:
    """Matrix that turns about x, then y, then z by the angles (radians, given in z y x order), and scales."""
    matrix_33 = np.eye(3) * scale
    for axis, angle in enumerate(angles_3):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix_33 = matrix_33 @ turn
    return matrix_33


def view(level: int, corner_3: Sequence[int], size: int, transform: Transform) -> View:
    """Find the stored voxels that a cube of one level shows through a transform.

    Args:
        level: resolution; beyond the coarsest stored level, that one is interpolated.
        corner_3: first corner of the untransformed cube, in level-0 voxels.
        size: edge, in voxels of `level`.
        transform: of the patch.
    """
    stored = min(level, LEVELS - 1)
    first_3 = transform.matrix_33 @ (np.asarray(corner_3) + (2**level - 1) / 2 - transform.centre_3)
    first_3 = (first_3 + transform.centre_3 + transform.shift_3 + 0.5) / 2**stored - 0.5
    step_33 = transform.matrix_33 * 2.0 ** (level - stored)
    reach_33 = step_33 * (size - 1)
    spare_3 = _SLACK + _bend(transform) / 2**stored
    low_3 = np.floor(first_3 + np.minimum(reach_33, 0).sum(axis=1) - spare_3)
    high_3 = np.floor(first_3 + np.maximum(reach_33, 0).sum(axis=1) + spare_3) + 1  # the upper neighbour
    map_34 = np.concatenate([step_33, (first_3 - low_3)[:, None]], axis=1)
    return View(stored, _triple(low_3), _triple(high_3 - low_3 + 1), map_34)


def largest_box(config: AugmentationConfig, level: int, size: int) -> int:
    """Edge that no box of `view` exceeds, for whatever transform is drawn; see there for `level` and `size`."""
    stored = min(level, LEVELS - 1)
    reach = (size - 1) * (1 << (level - stored)) + 2 * config.elastic / (1 << stored)
    return math.ceil(growth(config) * reach + 2 * _SLACK) + 2


def growth(config: AugmentationConfig) -> float:
    """By how much a transform makes the box around a cube longer than the cube, at most.

    That is the largest sum of magnitudes in a row of the matrix. Up to 25° about each axis it is that of the middle
    row with every angle at its largest, as the derivatives show; beyond, √3 bounds the rows of any rotation.
    """
    if config.rotation > _STEEPEST:
        return math.exp(config.log_scale) * math.sqrt(3)
    angle = math.radians(config.rotation)
    turns = [rotation([angle * sign for sign in signs]) for signs in itertools.product((-1, 1), repeat=3)]
    return math.exp(config.log_scale) * float(np.abs(turns).sum(axis=2).max())


def _bend(transform: Transform) -> NDArray[np.float64]:
    """What displacements along each axis do not exceed, level-0 voxels."""
    if transform.controls_3NNN is None:
        return np.zeros(3)
    most_3: NDArray[np.float64] = np.abs(transform.controls_3NNN).max(axis=(1, 2, 3))
    return most_3


def _triple(values_3: NDArray[np.float64]) -> Triple:
    z, y, x = values_3.astype(np.int64).tolist()
    return z, y, x
