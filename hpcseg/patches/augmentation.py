"""Patches seen moved, turned and scaled (the paper's augmentation variant, 3.2.2), drawn from the same counters.

A patch shows, at position p, the volume at centre + shift + matrix · (p − centre). Every level and the label of a patch
have the same transform. Each level is interpolated in its own stored grid, so no level has to be aligned.

Positions are level-0 voxels, z y x; a voxel of level l has its centre at (j + ½) 2^l − ½.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hpcseg.config import AugmentationConfig
from hpcseg.patches.sampling import draw
from hpcseg.volumes.store import LEVELS, StoredCase

_STREAMS_APART = 1 << 16  # transforms never share random numbers with positions


@dataclass(frozen=True)
class Transform:
    """An affine map around a centre: `matrix_33` without unit, `shift_3` and `centre_3` in level-0 voxels."""

    matrix_33: NDArray[np.float64]
    shift_3: NDArray[np.float64]
    centre_3: NDArray[np.float64]


def draw_transform(
    config: AugmentationConfig, seed: int, stream: int, step: int, slot: int, centre_3: Sequence[float]
) -> Transform:
    """Draw the transform of one patch: uniform translation per axis, rotation about each axis, one log-scale.

    Args:
        config: largest values of each.
        seed, stream, step, slot: see `hpcseg.patches.sampling.draw`.
        centre_3: of the target.
    """
    generator = draw(seed, stream + _STREAMS_APART, step, slot)
    shift_3 = generator.uniform(-config.translation, config.translation, 3)
    angles = np.radians(generator.uniform(-config.rotation, config.rotation, 3))
    scale = math.exp(generator.uniform(-config.log_scale, config.log_scale))
    matrix_33 = np.eye(3) * scale
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix_33 = matrix_33 @ turn
    return Transform(matrix_33, shift_3, np.asarray(centre_3, np.float64))


def read_transformed(
    case: StoredCase, level: int, corner_3: Sequence[int], size: int, transform: Transform
) -> NDArray[np.float32]:
    """Read a cube of one level through a transform, linearly interpolated.

    Args:
        case: the volume; levels 1 and up are stored from clipped intensities.
        level: resolution; beyond the coarsest stored level, that one is interpolated.
        corner_3: first corner of the cube, in level-0 voxels.
        size: edge, in voxels of `level`.
        transform: of the patch.

    Returns:
        (size, size, size) intensities.
    """
    stored = min(level, LEVELS - 1)
    start_3, step_33 = _walk(corner_3, level, stored, transform)
    low_3, shape_3 = _bounds(start_3, step_33, size)
    volume = torch.from_numpy(case.decode(case.read(stored, low_3.tolist(), shape_3.tolist())))
    grid_111N3 = _positions(start_3 - low_3, step_33, size) * (2 / (shape_3 - 1)) - 1
    grid = torch.from_numpy(np.ascontiguousarray(grid_111N3[..., ::-1], np.float32))[None]  # torch wants x, y, z
    box = functional.grid_sample(volume[None, None], grid, mode="bilinear", align_corners=True, padding_mode="border")
    values: NDArray[np.float32] = box[0, 0].numpy()
    return values


def read_transformed_label(
    case: StoredCase, corner_3: Sequence[int], size: int, transform: Transform
) -> NDArray[np.uint8]:
    """Read a cube of the label through a transform: the class of the nearest voxel, (size, size, size)."""
    start_3, step_33 = _walk(corner_3, 0, 0, transform)
    low_3, shape_3 = _bounds(start_3, step_33, size)
    label_zyx = case.read_label(low_3.tolist(), shape_3.tolist())
    z, y, x = np.moveaxis(np.rint(_positions(start_3 - low_3, step_33, size)).astype(np.intp), -1, 0)
    nearest: NDArray[np.uint8] = label_zyx[z, y, x]
    return nearest


def _walk(
    corner_3: Sequence[int], level: int, stored: int, transform: Transform
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where voxel 0 of the cube lies on the stored grid, and by how much each of its axes moves there (columns)."""
    half = (2**level - 1) / 2
    first = transform.matrix_33 @ (np.asarray(corner_3) + half - transform.centre_3)
    position_3 = first + transform.centre_3 + transform.shift_3
    return (position_3 + 0.5) / 2**stored - 0.5, transform.matrix_33 * 2.0 ** (level - stored)


def _bounds(
    start_3: NDArray[np.float64], step_33: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel and shape of the box that holds all positions and their neighbours."""
    reach_33 = step_33 * (size - 1)
    low = np.floor(start_3 + np.minimum(reach_33, 0).sum(axis=1) - 1e-6).astype(np.int64)
    high = np.ceil(start_3 + np.maximum(reach_33, 0).sum(axis=1) + 1e-6).astype(np.int64)
    return low, np.maximum(high - low + 1, 2)


def _positions(start_3: NDArray[np.float64], step_33: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Positions of all voxels of the cube, (size, size, size, 3)."""
    z, y, x = (np.arange(size)[:, None] * step_33[:, axis] for axis in range(3))
    positions: NDArray[np.float64] = (start_3 + z)[:, None, None] + y[:, None] + x
    return positions
