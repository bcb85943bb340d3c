"""Where the voxels of a minibatch's cubes lie in a device's memory, as one small table for the gathering kernel.

Only whole numbers and the host are needed here. A cube is one level's input box of one patch, or a patch's label.

Shapes: B patches, C cubes of a patch, L levels, R columns of a row (`Column`); triples are z, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.patches.geometry import PatchGeometry, Triple
from hpcseg.volumes.store import LEVELS

Rows = NDArray[np.int64]
LOWEST, HIGHEST = -32768, 32767  # of the codes


class Column(IntEnum):
    """What a cube's row says, each an int64.

    The first seven columns are a volume's `facts`.
    """

    SOURCE = 0  # address of the volume's voxel (0, 0, 0)
    DEPTH = 1  # shape of the volume
    HEIGHT = 2
    WIDTH = 3
    OUTSIDE = 4  # value beyond the volume
    LOW = 5  # codes are clipped to these before they are averaged
    HIGH = 6
    START_Z = 7  # first voxel, in the volume's voxels; may lie beyond it
    START_Y = 8
    START_X = 9
    SHIFT = 10  # means are taken of cubes of 2^SHIFT voxels along each axis
    SIZE_Z = 11  # shape of what is made
    SIZE_Y = 12
    SIZE_X = 13
    IS_LABEL = 14  # 1: uint8 classes; 0: int16 codes
    TARGET = 15  # address of what is made
    FIRST = 16  # program that makes the cube's first voxels


COLUMNS = len(Column)
_FACTS = slice(Column.SOURCE, Column.START_Z)
_START = slice(Column.START_Z, Column.SHIFT)
SIZE = slice(Column.SIZE_Z, Column.IS_LABEL)


def facts(volume_ZYX: Tensor, outside: int, bounds: tuple[int, int] | None = None) -> list[int]:
    """What rows say about a volume: int16 codes or uint8 classes, contiguous.

    Args:
        volume_ZYX: must stay where it is.
        outside: value beyond it.
        bounds: what its codes are clipped to wherever they are averaged; None: no clip.
    """
    assert volume_ZYX.is_contiguous()
    return [volume_ZYX.data_ptr(), *volume_ZYX.shape, outside, *(bounds or (LOWEST, HIGHEST))]


def foveal_rows(
    facts_BL7: Rows, labels_B7: Rows | None, origins: Sequence[Triple], geometry: PatchGeometry, levels: Sequence[int]
) -> Rows:
    """Rows of the boxes of foveal patches, by the rule of `reading.locate`, then of their labels.

    Args:
        facts_BL7: of each patch's stored levels.
        labels_B7: of each patch's label; None: no labels are wanted.
        origins: (B) first corner of each target, in level-0 voxels.
        geometry: sizes and places of the boxes.
        levels: which boxes, in the order wanted.

    Returns:
        (B, C, R); targets and programs are still to be filled in.
    """
    count, wanted = len(origins), np.asarray(levels)
    rows_BCR = np.zeros((count, len(levels) + (labels_B7 is not None), COLUMNS), np.int64)
    origins_B3 = np.asarray(origins, np.int64).reshape(count, 3)
    corners_BL3 = origins_B3[:, None] + np.asarray(geometry.origins, np.int64)[wanted][:, None]
    bits_BL = np.bitwise_or.reduce(corners_BL3, axis=2) | 1 << np.minimum(wanted, LEVELS - 1)
    stored_BL = np.frexp((bits_BL & -bits_BL).astype(np.float64))[1] - 1  # the place of the lowest bit that is set
    images_BLR = rows_BCR[:, : len(levels)]
    images_BLR[..., _FACTS] = facts_BL7[np.arange(count)[:, None], stored_BL]
    images_BLR[..., _START] = corners_BL3 >> stored_BL[..., None]
    images_BLR[..., Column.SHIFT] = wanted - stored_BL
    images_BLR[..., SIZE] = np.asarray(geometry.inputs, np.int64)[wanted][:, None]
    if labels_B7 is not None:
        label_BR = rows_BCR[:, -1]
        label_BR[:, _FACTS] = labels_B7
        label_BR[:, _START] = origins_B3
        label_BR[:, SIZE] = geometry.patch
        label_BR[:, Column.IS_LABEL] = 1
    return rows_BCR


def box_row(
    facts_7: Sequence[int], start_3: Triple, shape_3: Sequence[int], is_label: bool, target: int = 0
) -> list[int]:
    """Row of a box that is not averaged; `start_3` in the volume's voxels, `target` the address that it goes to."""
    return [*facts_7, *start_3, 0, *shape_3, int(is_label), target, 0]


def whole_rows(boxes: Sequence[Tensor]) -> Rows:
    """Rows of (B, D, D, D) boxes of codes or classes that were cut before: each is a volume of its own."""
    firsts = [boxes_BDDD[0] for boxes_BDDD in boxes]
    row_CR = np.array([box_row(facts(box, 0), (0, 0, 0), box.shape, box.dtype == torch.uint8) for box in firsts])
    rows_BCR = np.repeat(row_CR[None], len(boxes[0]), axis=0)
    rows_BCR[..., Column.SOURCE] += np.arange(len(rows_BCR))[:, None] * [box.nbytes for box in firsts]
    return rows_BCR
