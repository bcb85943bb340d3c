"""A scan in, class probabilities or a mask on the scan's own grid out (paper 3.1.2).

Shape legend: B batch, C classes, D/H/W and Z/Y/X the axes z, y, x. "Network grid" is the cropped, resampled grid that
the network was trained on; "scan grid" is the scan's own, in canonical orientation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpcseg.inference.tiling import gaussian_weights, large_tile, tile_origins
from hpcseg.inference.volume import ScanVolume
from hpcseg.patches.geometry import FovealGeometry, PatchGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.patches.windowing import table_row, windowed
from hpcseg.training.model import TrainedModel, geometry_of
from hpcseg.training.precision import autocast, pick_device
from hpcseg.volumes.intensities import Normalisation, normalisation
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.scans import ScanGrid
from hpcseg.volumes.store import LEVELS

LARGEST_TILE = 96  # voxels; 64 float32 maps of such a tile take 226 MB

Advance = Callable[[int, int], None]  # tiles done, tiles in all


@dataclass(frozen=True)
class Segmentation:
    """Class indices on the scan grid, uint8 (Z, Y, X), 0 the background."""

    mask_zyx: NDArray[np.uint8]
    grid: ScanGrid


class Segmenter:
    """A trained model, ready to be applied to scans."""

    def __init__(self, model: TrainedModel, device: torch.device | None = None) -> None:
        self.model = model
        self.device = device or pick_device()
        self.network = model.network(self.device)

    def segment(self, image: Path, advance: Advance | None = None) -> Segmentation:
        """Segment one NIfTI scan.

        Raises:
            BadInput: the file is not a sound three-dimensional scan.
        """
        model = self.model
        scan = preprocess(image, None, spacing_zyx=model.spacing_zyx, classes=model.classes, padding=model.padding)
        volume = ScanVolume.of(scan, model.pyramid_clip, levels=LEVELS)
        window = normalisation(model.config.preprocessing, volume.histogram, model.window)
        probability_CZYX = self._predict(volume, window, advance)
        # Class after class, so that only one full-size array of probabilities is alive beside the running maximum.
        best = scan.restore(1 - probability_CZYX.sum(axis=0)) if model.class_count > 1 else None
        mask: NDArray[np.uint8] | None = None
        for index, probability_ZYX in enumerate(probability_CZYX, start=1):
            restored = scan.restore(probability_ZYX)
            wins = restored > (0.5 if best is None else best)
            mask = np.zeros(restored.shape, np.uint8) if mask is None else mask
            mask[wins] = index
            if best is not None:
                np.maximum(best, restored, out=best)
        assert mask is not None
        return Segmentation(mask, scan.grid)

    def _predict(self, volume: ScanVolume, window: Normalisation, advance: Advance | None) -> NDArray[np.float32]:
        config = self.model.config
        geometry = geometry_of(config)
        if config.inference.mode == "paper":
            step = max(round(geometry.patch * (1 - config.inference.overlap)), 1)
            weights = gaussian_weights(geometry.patch, config.inference.sigma)
            return self._overlapping(volume, window, geometry, step, weights, advance)
        # A U-Net's predictions depend on where the tile's faces are: they stay about as far as in training.
        largest = LARGEST_TILE if isinstance(geometry, FovealGeometry) else geometry.patch
        tile = large_tile(volume.shape_zyx, geometry, config.inference.tile or largest)
        return self._overlapping(volume, window, geometry.resized(tile), tile, None, advance)

    def _overlapping(
        self,
        volume: ScanVolume,
        window: Normalisation,
        geometry: PatchGeometry,
        step: int,
        weights: NDArray[np.float32] | None,
        advance: Advance | None,
    ) -> NDArray[np.float32]:
        """Foreground probabilities (C, Z, Y, X) on the network grid, averaged with `weights` where tiles overlap."""
        total_CZYX = np.zeros((self.model.class_count, *volume.shape_zyx), np.float32)
        weight_ZYX = None if weights is None else np.zeros(volume.shape_zyx, np.float32)
        origins = list(tile_origins(volume.shape_zyx, geometry, step))
        for done, origin in enumerate(origins, start=1):
            inside = tuple(
                slice(max(o, 0), min(o + geometry.patch, n)) for o, n in zip(origin, volume.shape_zyx, strict=True)
            )
            own = tuple(slice(s.start - o, s.stop - o) for s, o in zip(inside, origin, strict=True))
            if all(s.stop > s.start for s in inside):
                tile_CDHW = self._tile(volume, window, geometry, origin)[:, *own]
                if weights is None or weight_ZYX is None:
                    total_CZYX[:, *inside] = tile_CDHW
                else:
                    total_CZYX[:, *inside] += weights[own] * tile_CDHW
                    weight_ZYX[inside] += weights[own]
            if advance:
                advance(done, len(origins))
        return total_CZYX if weight_ZYX is None else total_CZYX / weight_ZYX

    @torch.inference_mode()
    def _tile(
        self, volume: ScanVolume, window: Normalisation, geometry: PatchGeometry, origin: tuple[int, int, int]
    ) -> NDArray[np.float32]:
        table_16 = torch.from_numpy(table_row(volume.slope, volume.intercept, window))[None].to(self.device)
        boxes = read_sample(volume, geometry, origin, range(geometry.levels), self.model.pyramid_clip)
        images_BCDHW = [windowed(torch.from_numpy(box)[None].to(self.device), table_16) for box in boxes]
        with autocast(self.model.config.training, self.device):
            logits_BCDHW = self.network(images_BCDHW)
        probability_CDHW = nn.functional.softmax(logits_BCDHW.float(), dim=1)[0, 1:]
        result: NDArray[np.float32] = probability_CDHW.cpu().numpy()
        return result
