"""Values between voxels, computed where the voxels lie: linear for intensities, the nearest voxel's for classes.

Boxes of all patches, each of its own shape, stand in one flat tensor; `places_B3` says where. One gather then serves
a whole minibatch, and only voxels that are shown are ever converted to floating point.

Shapes: B batch, N flat voxels, D edge of a cube. `places_B3` int32: where voxel (0, 0, 0) of each patch's box stands,
and how far apart neighbours along z and y are (along x: 1). `map_B34` float32: see `augmentation.View`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hpcseg.patches.elastic import Taps, displacements

_PATCHES_ON_CPU = 1  # a patch's tensors stay in a core's cache; a GPU wants few, large ones


class Bends(NamedTuple):
    """By how much further away voxels lie than the map says, see `elastic`; `controls_B3NNN` in voxels of the boxes."""

    controls_B3NNN: Tensor
    taps: Taps


def linear(flat_N: Tensor, places_B3: Tensor, map_B34: Tensor, size: int, bends: Bends | None = None) -> Tensor:
    """Interpolate cubes of `size` voxels trilinearly, in float32.

    Every position must have all eight neighbours in its box.

    Args:
        flat_N: int16 codes of all boxes.
        places_B3, map_B34, bends: of each patch.
        size: edge of the cubes.

    Returns:
        (B, D, D, D) float32 values between codes.
    """
    values_BDDD = map_B34.new_empty((len(map_B34), *(size,) * 3))
    for some in _portions(values_BDDD):
        _linear(flat_N, places_B3[some], _positions(map_B34[some], size, _some(bends, some)), values_BDDD[some])
    return values_BDDD


def nearest(flat_N: Tensor, places_B3: Tensor, map_B34: Tensor, size: int, bends: Bends | None = None) -> Tensor:
    """Class of the voxel nearest to each position; half way: of the one with the even index in the box.

    Args:
        flat_N: uint8 classes of all boxes.
        places_B3, map_B34, size, bends: see `linear`.

    Returns:
        (B, D, D, D) uint8.
    """
    classes_BDDD = flat_N.new_empty((len(map_B34), *(size,) * 3))
    for some in _portions(classes_BDDD):
        voxels = [position.round_() for position in _positions(map_B34[some], size, _some(bends, some))]
        index = _index(voxels, *_columns(places_B3[some]))
        classes_BDDD[some] = flat_N.index_select(0, index.flatten()).view_as(index)
    return classes_BDDD


def _linear(flat_N: Tensor, places_B3: Tensor, positions: Sequence[Tensor], out_BDDD: Tensor) -> None:
    first, along_z, along_y = _columns(places_B3)
    z, y, x = positions
    below = [position.floor() for position in (z, y, x)]
    for position, voxel in zip((z, y, x), below, strict=True):
        position.sub_(voxel)
    index = _index(below, first, along_z, along_y)
    next_N = flat_N[1:]

    def row(offset: Tensor | int) -> Tensor:
        at = (index + offset).flatten()
        left, right = flat_N.index_select(0, at), next_N.index_select(0, at)
        return left.to(torch.float32).lerp_(right.to(torch.float32), x.flatten()).view_as(x)

    lower = row(0).lerp_(row(along_y), y)
    upper = row(along_z).lerp_(row(along_z + along_y), y)
    torch.lerp(lower, upper, z, out=out_BDDD)


def _positions(map_B34: Tensor, size: int, bends: Bends | None) -> list[Tensor]:
    """z, y and x in the box of every voxel of the cubes, each (B, D, D, D).

    Sums, not a matrix product: that may run in a lower precision.
    """
    steps_D = torch.arange(size, dtype=torch.float32, device=map_B34.device)
    along = map_B34[:, :, :3, None] * steps_D
    start_zy = (map_B34[:, :, 3, None] + along[:, :, 0])[..., None] + along[:, :, 1, None]
    places = [start_zy[:, axis, :, :, None] + along[:, axis, 2, None, None] for axis in range(3)]
    if bends is not None:
        for place, further in zip(places, displacements(*bends).unbind(dim=1), strict=True):
            place.add_(further)
    return places


def _index(voxels: Sequence[Tensor], first: Tensor, along_z: Tensor, along_y: Tensor) -> Tensor:
    """Places of whole voxels (z, y, x) in the flat tensor, int32; float32 would not count beyond 2^24."""
    z, y, x = voxels
    index = z.to(torch.int32).mul_(along_z)
    return index.add_(y.to(torch.int32).mul_(along_y)).add_(x.to(torch.int32)).add_(first)


def _columns(places_B3: Tensor) -> tuple[Tensor, ...]:
    return places_B3[:, :, None, None, None].unbind(dim=1)


def _some(bends: Bends | None, some: slice) -> Bends | None:
    return None if bends is None else bends._replace(controls_B3NNN=bends.controls_B3NNN[some])


def _portions(cubes_BDDD: Tensor) -> list[slice]:
    count = len(cubes_BDDD)
    portion = _PATCHES_ON_CPU if cubes_BDDD.device.type == "cpu" else count
    return [slice(start, start + portion) for start in range(0, count, portion)]
