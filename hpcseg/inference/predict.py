"""One model applied to one scan on the network's grid, tile by tile; finished planes leave as soon as they are.

Shape legend: B batch, C foreground classes, D/H/W axes z, y, x of a tile, Z/Y/X those of the network's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpcseg.errors import BadInput
from hpcseg.host import freed_memory_kept
from hpcseg.inference.constants import constants_once
from hpcseg.inference.tiling import Tiling, large_tile
from hpcseg.patches.codes import table_row, windowed
from hpcseg.patches.geometry import FovealGeometry, Triple
from hpcseg.patches.reading import read_sample
from hpcseg.training.model import TrainedModel, geometry_of
from hpcseg.training.precision import Number, applied
from hpcseg.volumes import scratch
from hpcseg.volumes.normalise import normalisation
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import StoredCase

LARGEST_TILE = 96  # voxels; 64 float32 maps of such a tile take 226 MB

Advance = Callable[[int, int], None]  # tiles done, tiles in all
Mode = Literal["tiles", "paper"]


class Predictor:
    """A trained model on a device.

    Args:
        model: weights, and how a scan becomes their input.
        device: where it computes.
        mode: "paper" or "tiles", instead of the one that the model was configured with.
        precision: "float32", "bfloat16" or "float16", likewise.
    """

    def __init__(
        self, model: TrainedModel, device: torch.device, mode: Mode | None = None, precision: Number | None = None
    ) -> None:
        self.model = model
        self.device = device
        self.mode = mode or model.config.inference.mode
        self.precision = applied(model.config, device, precision)
        self.network = model.network(device)
        constants_once(self.network)

    def tiling(self, shape_zyx: Triple) -> Tiling:
        """The tiles that cover a volume: overlapping patches as in training ("paper"), or large tiles side by side."""
        geometry, inference = geometry_of(self.model.config), self.model.config.inference
        if self.mode == "paper":
            step = max(round(geometry.patch * (1 - inference.overlap)), 1)
            return Tiling.of(shape_zyx, geometry, step, inference.sigma)
        # A U-Net's predictions depend on where the tile's faces are: they stay about as far as in training.
        largest = LARGEST_TILE if isinstance(geometry, FovealGeometry) else geometry.patch
        tile = large_tile(shape_zyx, geometry, inference.tile or largest)
        return Tiling.of(shape_zyx, geometry.resized(tile), tile, None)

    def slabs(self, volume: ScanVolume | StoredCase, advance: Advance | None = None) -> Iterator[NDArray[np.float32]]:
        """Probabilities of the foreground classes, (C, planes, Y, X) float32, from the first plane to the last.

        Memory: a few slabs as thick as a tile, whatever the number of planes.

        Raises:
            BadInput: the model's window does not fit its intensity method, or its answer is not finite.
        """
        window = normalisation(self.model.config.preprocessing, volume.histogram, self.model.window)
        row_16 = torch.from_numpy(table_row(volume.coding, window))[None].to(self.device)
        tiling = self.tiling(volume.shape_zyx)
        mean = _RunningMean(self.model.class_count, tiling)
        for done, tile in enumerate(tiling, start=1):
            if tiling.meets(tile):
                mean.add(tile, self._tile(volume, row_16, tiling, tile))
            if advance:
                advance(done, tiling.count)
            if done % tiling.per_layer == 0 and (finished := tiling.finished(tile[0])) > mean.first:
                yield mean.pop(finished)

    @torch.inference_mode()
    def _tile(
        self, volume: ScanVolume | StoredCase, row_16: torch.Tensor, tiling: Tiling, tile: Triple
    ) -> NDArray[np.float32]:
        """Probabilities of one tile's voxels as far as the volume goes, (C, D, H, W)."""
        geometry = tiling.geometry
        whole = read_sample(volume, geometry, tiling.origin(tile), range(geometry.levels), self.model.pyramid_clip)
        boxes = [box[:z, :y, :x] for box, (z, y, x) in zip(whole, tiling.boxes(tile), strict=True)]
        images_BCDHW = [windowed(torch.from_numpy(box)[None].to(self.device), row_16) for box in boxes]
        with freed_memory_kept(), self.precision.autocast():
            logits_BCDHW = self.network(images_BCDHW)
        if not torch.isfinite(logits_BCDHW).all():
            raise BadInput(
                f"model {self.model.name}: answers with numbers that are not finite; its weights are no use, or "
                "training.precision = 'float16' ends at 65504: train it anew with 'bfloat16' or 'float32'"
            )
        probability_CDHW = nn.functional.softmax(logits_BCDHW.float(), dim=1)[0, 1:]
        result: NDArray[np.float32] = probability_CDHW.cpu().numpy()
        return result


class _RunningMean:
    """The weighted mean of overlapping tiles, in those planes that tiles are still added to."""

    def __init__(self, classes: int, tiling: Tiling) -> None:
        self.first = 0  # plane that is still waiting
        self._tiling = tiling
        self._shape = classes, tiling.geometry.patch, *tiling.shape_zyx[1:]
        self._waiting_CZYX = scratch.zeros(self._shape, np.float32)

    def add(self, tile: Triple, values_CDHW: NDArray[np.float32]) -> None:
        """Add one tile of the layer that is being made."""
        inside, own = self._tiling.places(tile)
        z, y, x = (shares[index, part] for shares, index, part in zip(self._tiling.shares, tile, inside, strict=True))
        planes = slice(inside[0].start - self.first, inside[0].stop - self.first)
        target = self._waiting_CZYX[:, planes, inside[1], inside[2]]
        target += values_CDHW[:, *own] * (z[:, None, None] * y[:, None] * x)

    def pop(self, end: int) -> NDArray[np.float32]:
        """Give the planes before `end` away."""
        ready, rest = np.split(self._waiting_CZYX, [end - self.first], axis=1)
        self._waiting_CZYX, self.first = scratch.zeros(self._shape, np.float32), end
        self._waiting_CZYX[:, : rest.shape[1]] = rest
        return ready
