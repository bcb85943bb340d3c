"""Figures of the room `inference`: large tiles against overlapping patches."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from hpcseg.config import RunConfig
from hpcseg.inference.predict import Mode, Predictor
from hpcseg.training.model import TrainedModel, new_network
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.preprocess import preprocess
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.store import LEVELS
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, at_least, at_most, benchmark
from tests.benchmarks.timing import one_thread

PATCH, KERNEL, MAPS = 64, 5, 4
SPACING = 1.5  # mm, of the network's grid
CASE = "lits_004"


@benchmark(
    Figure(
        "tiles_ratio",
        "speed of large tiles over overlapping patches as published",
        "×",
        f"all probabilities of a real CT (`{CASE}`; a phantom where it is absent) at {SPACING:g} mm: "
        f'`mode = "tiles"` against `mode = "paper"` (patch {PATCH}, half overlapping, Gaussian weights), F-Net of '
        f"kernel {KERNEL}, 4 levels and {MAPS} maps with random weights, CPU seconds of one thread; tiles "
        "before and after, the faster by the patches",
        at_least(5),
    ),
    Figure(
        "tiles_error",
        "largest difference of the two modes' probabilities",
        "probability",
        "largest absolute difference over all voxels of these volumes",
        at_most(1e-4),
    ),
)
def tiles() -> Measured:
    """The same probabilities, in a fraction of the time."""
    image, name = _scan()
    model = _model()
    scan = preprocess(image, None, spacing_zyx=model.spacing_zyx, classes=(), padding=model.padding)
    volume = ScanVolume.of(scan, model.pyramid_clip, LEVELS)
    with one_thread():
        first, (slow, many, _, paper), again = (_timed(model, mode, volume) for mode in ("tiles", "paper", "tiles"))
    fast, few, tile, found = min(first, again, key=lambda timed: timed[0])
    z, y, x = volume.shape_zyx
    return Measured(
        {"tiles_ratio": slow / fast, "tiles_error": float(np.abs(found - paper).max())},
        {
            "the volume": f"{name}, {z} × {y} × {x} voxels; probabilities {found.mean():.2f} ± {found.std():.2f}",
            "CPU seconds": f"{few} tiles of {tile}³ {fast:.1f}, {many} patches of {PATCH}³ {slow:.1f}",
        },
    )


def _timed(model: TrainedModel, mode: Mode, volume: ScanVolume) -> tuple[float, int, int, np.ndarray]:
    """CPU seconds, number and edge of the tiles, probabilities."""
    predictor = Predictor(model, torch.device("cpu"), mode)
    tiling = predictor.tiling(volume.shape_zyx)
    begin = time.process_time()
    probability = np.concatenate(list(predictor.slabs(volume)), axis=1)
    return time.process_time() - begin, tiling.count, tiling.geometry.patch, probability


def _scan() -> tuple[Path, str]:
    root = material.REAL / "Task03_LiverCT"
    if root.is_dir():
        return next(case.image for case in open_dataset(root).training if case.name == CASE), CASE
    return open_dataset(material.phantoms(4, 256)).training[0].image, "a phantom"


def _model() -> TrainedModel:
    """Random weights; a gain of 1 keeps the probabilities away from 0 and 1."""
    config = RunConfig.model_validate(
        {
            "patches": {"size": PATCH},
            "network": {"levels": 4, "kernel": KERNEL, "maps": MAPS, "init_gain": 1.0},
            "preprocessing": {"intensity": "window"},
        }
    )
    return TrainedModel(
        config=config,
        spacing_zyx=(SPACING,) * 3,
        classes=((1, 2),),
        padding=material.PADDING,
        pyramid_clip=material.PYRAMID_CLIP,
        window=None,
        weights=new_network(config, 1, torch.Generator().manual_seed(3)).state_dict(),
        provenance={},
    )
