"""Bidirectional copy-paste (Bai et al. 2023) on foveal patches: a cuboid of one patch changes places with another's.

Its faces are faces of the coarsest level's voxels. So a voxel of any level belongs to one of both patches as a whole,
and the mixed levels are those of a volume that was mixed at full resolution. It lies within the target: what a coarse
level shows beyond the target is all of one volume, the one around the cuboid.

Shapes: B patches, M pairs of a labelled and an unlabelled one, D edge of a level's box, P edge of a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from hpcseg.patches.blocks import blocks_along, coarsest_voxel, whole_blocks
from hpcseg.patches.sampling import Draw, Use
from hpcseg.spec import IGNORED

if TYPE_CHECKING:
    from hpcseg.patches.geometry import PatchGeometry


class MixKeys(Protocol):
    """Keys of a strategy that mixes patches."""

    @property
    def mix_size(self) -> float:
        """Edge of a cuboid, in edges of the target."""

    @property
    def mix_pairs(self) -> float:
        """Share of the pairs in which there is one."""

    @property
    def mix_levels(self) -> str:
        """Levels that are mixed: "all" or "finest"."""


class CopyPaste:
    """Cuboids that change places, and what becomes of images and labels.

    Args:
        section: how large they are, in how many pairs, and on which levels.
        geometry: of the patches.
        draw: of the unlabelled patches, by whose counters cuboids are drawn.
        labelled: patches of a minibatch that have labels; the first of them form pairs with the first unlabelled ones.
        device: where the patches are.
    """

    def __init__(
        self, section: MixKeys, geometry: PatchGeometry, draw: Draw, labelled: int, device: torch.device
    ) -> None:
        self._section, self._draw, self._device = section, draw, device
        self._slots = range(min(labelled, draw.batch))[draw.part]
        self._cells = whole_blocks(geometry)
        edge = coarsest_voxel(geometry)
        self._edge = min(max(int(section.mix_size * geometry.patch / edge + 1e-9), 1), len(self._cells))
        self._places = [own_D.to(device) for own_D in blocks_along(geometry, edge)]
        begin = -geometry.origins[0]
        self._target = slice(begin, begin + geometry.patch)
        self._levels = 1 if section.mix_levels == "finest" else geometry.levels

    def drawn(self, step: int, *, wanted: bool = True) -> Tensor:
        """The first block of each pair's cuboid and the one after its last, (M, 3, 2) int64; 0 where there is none.

        Args:
            step: of all steps.
            wanted: whether there is any.
        """
        cuboids_M32 = np.zeros((len(self._slots), 3, 2), np.int64)
        for own_32, slot in zip(cuboids_M32, self._slots, strict=True):
            generator = self._draw.generator(step, slot, Use.CUBOID)
            if generator.random() < self._section.mix_pairs and wanted:
                last = self._cells.stop - self._edge
                own_32[:, 0] = generator.integers(self._cells.start, last, size=3, endpoint=True)
                own_32[:, 1] = own_32[:, 0] + self._edge
        cuboids = torch.from_numpy(cuboids_M32)
        return cuboids.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else cuboids

    def masks(self, cuboids_M32: Tensor) -> list[Tensor]:
        """The voxels of each level's box that lie in the cuboids, (M, 1, D, D, D) bool; nothing waits for a GPU."""
        found = []
        for level, places_D in enumerate(self._places):
            begin_M31, end_M31 = cuboids_M32[..., :1], cuboids_M32[..., 1:]
            z_MD, y_MD, x_MD = ((places_D >= begin_M31) & (places_D < end_M31)).unbind(1)
            mask = z_MD[:, :, None, None] & y_MD[:, None, :, None] & x_MD[:, None, None, :]
            found.append(mask[:, None] if level < self._levels else torch.zeros_like(mask[:, None]))
        return found

    def images(self, pairs: Sequence[tuple[Tensor, Tensor]], masks: Sequence[Tensor]) -> list[Tensor]:
        """Of each level, the labelled and then the unlabelled patches, mixed."""
        return [torch.cat(exchanged(*pair, mask)) for pair, mask in zip(pairs, masks, strict=True)]

    def labels(self, label_BDHW: Tensor, pseudo_BDHW: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of all patches, in the order of `images`: true labels and pseudo-labels, `IGNORED` elsewhere."""
        mask = masks[0][:, 0, self._target, self._target, self._target]
        none, other_none = torch.full_like(label_BDHW, IGNORED), torch.full_like(pseudo_BDHW, IGNORED)
        true = torch.cat(exchanged(label_BDHW, other_none, mask))
        return true, torch.cat(exchanged(none, pseudo_BDHW, mask))


def exchanged(one: Tensor, other: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both with what the other has under the mask, for as many patches as it has; the rest stays.

    >>> exchanged(torch.tensor([1, 1, 1]), torch.tensor([2, 2]), torch.tensor([True, False]))
    (tensor([2, 1, 1]), tensor([1, 2]))
    """
    pairs = len(mask)
    first, second = one[:pairs], other[:pairs]
    mixed = torch.where(mask, second, first), torch.where(mask, first, second)
    return torch.cat([mixed[0], one[pairs:]]), torch.cat([mixed[1], other[pairs:]])
