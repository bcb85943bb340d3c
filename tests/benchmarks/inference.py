"""Figures of the room `inference`: large tiles against overlapping patches, scans in a line against one by one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from hpcseg.config import RunConfig
from hpcseg.inference.masks import segment_files
from hpcseg.inference.metrics import measure
from hpcseg.inference.predict import Mode, Predictor
from hpcseg.inference.segment import Segmentation, Segmenter, Work
from hpcseg.spec import CaseRef
from hpcseg.training.model import TrainedModel
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.preprocess import merge_labels, preprocess
from hpcseg.volumes.scan_volume import ScanVolume
from hpcseg.volumes.scans import read_label, write_mask
from hpcseg.volumes.store import LEVELS
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, at_least, at_most, benchmark
from tests.benchmarks.timing import interleaved, median_ratio, one_thread, seconds, two_threads
from tests.inference.untrained import model_of

PATCH, KERNEL, MAPS = 64, 5, 4
SPACING = 1.5  # mm, of the network's grid
CASE = "lits_004"
NETWORK_S = 1.0  # that a stand-in for a GPU takes for a scan
THICKNESS = 48  # planes that it answers at once


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


@benchmark(
    Figure(
        "evaluation_idle",
        "share of an evaluation in which a fast network waits",
        "share",
        f"8 CT phantoms of 256 × 256 planes, read, resampled to {SPACING:g} mm, restored, measured and written; a "
        f"stand-in for the network takes {NETWORK_S:g} s a scan on no core, as a GPU does; idle is the rest",
        at_most(0.35),
    ),
)
def evaluation() -> Measured:
    """What surrounds the network, beside it and after it."""
    scans = open_dataset(material.phantoms(4, 256)).training * 2
    with tempfile.TemporaryDirectory() as folder, two_threads():
        segmenter = Segmenter(_model(), device=torch.device("cpu"))
        segmenter.predictors = [_StandIn(_model(), torch.device("cpu"))]

        def measured(case: CaseRef, found: Segmentation) -> object:
            assert case.label is not None
            write_mask(Path(folder) / f"{case.name}.nii.gz", found.mask_zyx, like=case.image)
            reference_zyx = merge_labels(read_label(case.label, found.grid), ((1, 2),))
            return measure(found.mask_zyx, reference_zyx, 1, found.grid.steps_zyx, 5.0, threads=1)

        work = Work(lambda case: segmenter.read(case.image), measured)
        in_line = seconds(lambda: list(segmenter.in_turn(scans, work)))
        one_by_one = seconds(lambda: [list(segmenter.in_turn([scan], work)) for scan in scans])
    idle, before = (1 - len(scans) * NETWORK_S / took for took in (in_line, one_by_one))
    details = {"seconds": f"{in_line:.1f}; one scan after the other {one_by_one:.1f}, of which idle {before:.0%}"}
    return Measured({"evaluation_idle": idle}, details)


class _StandIn(Predictor):
    """Answers a box in the middle of the volume, after a time."""

    def slabs(self, volume: object, advance: object = None) -> Iterator[np.ndarray]:
        assert isinstance(volume, ScanVolume)
        z, y, x = volume.shape_zyx
        count = -(-z // THICKNESS)
        for first in range(0, z, THICKNESS):
            time.sleep(NETWORK_S / count)
            values = np.zeros((1, min(THICKNESS, z - first), y, x), np.float32)
            values[:, :, y // 3 : -y // 3, x // 3 : -x // 3] = 1.0
            yield values


@benchmark(
    Figure(
        "segment_in_line",
        "speed of segmenting scans in a line over one after the other",
        "×",
        "`segment_files` of 4 CT phantoms of 256 × 256 planes at once and one by one, in turn, 3 rounds after an "
        f"untimed one; F-Net of kernel 3, 3 levels and {MAPS} maps at 3 mm, two threads on two cores; median ratio",
        at_least(1.1),
    ),
)
def segmenting() -> Measured:
    """Scans per minute on two cores."""
    images = [case.image for case in open_dataset(material.phantoms(4, 256)).training]
    with tempfile.TemporaryDirectory() as name, two_threads():
        folder = Path(name)
        _model(spacing=3.0, levels=3, kernel=3).save(folder / "model.pt")

        def segment(*lines: list[Path]) -> Callable[[], object]:
            return lambda: [list(segment_files([folder / "model.pt"], own, folder, force=True)) for own in lines]

        timed = interleaved(3, segment(images), segment(*([image] for image in images)))
    minutes = [60 * len(images) / min(own) for own in zip(*timed, strict=True)]
    details = {"scans a minute": f"{minutes[0]:.1f}; one after the other {minutes[1]:.1f}"}
    return Measured({"segment_in_line": median_ratio(timed, 1, 0)}, details)


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


def _model(spacing: float = SPACING, **network: int) -> TrainedModel:
    """Random weights; a gain of 1 keeps the probabilities away from 0 and 1."""
    config = RunConfig.model_validate(
        {
            "patches": {"size": PATCH},
            "network": {"levels": 4, "kernel": KERNEL, "maps": MAPS, "init_gain": 1.0, **network},
            "preprocessing": {"intensity": "window"},
        }
    )
    return model_of(config, spacing=spacing)
