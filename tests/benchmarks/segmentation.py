"""Figures of a whole CT's segmentation on two cores, against what its arithmetic takes at least."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.config import RunConfig
from hpcseg.inference.segment import Segmenter
from hpcseg.inference.tiling import Tiling
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.reading import read_sample
from hpcseg.phantoms.dataset import draw_phantom
from hpcseg.training.model import TrainedModel
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, at_most, benchmark
from tests.benchmarks.networks import products
from tests.benchmarks.timing import interleaved, seconds, two_threads
from tests.inference.untrained import CPU, model_of

IN_PLANE, PART, TIMES = 512, 75, 4  # planes of the part that is segmented, and its share of the scan's
PLANES = PART * TIMES
DRAWN = 128  # voxels across the phantom, of which each becomes several
STEPS_ZYX = (1.0, 0.76, 0.76)  # mm
SPACING = 1.0  # of the network's grid
SCAN = (
    f"a phantom's CT of {IN_PLANE}×{IN_PLANE}×{PLANES} voxels, {STEPS_ZYX[1]:g} mm in plane, slices of "
    f"{STEPS_ZYX[0]:g} mm, segmented at {SPACING:g} mm by the paper's F-Net (kernel 5, 4 levels of 32 maps, random "
    f"weights) in float32 with two threads, from file to mask; the middle {PART} planes of it, as thick as a layer of "
    f"tiles, are measured and count {TIMES} times"
)


@benchmark(
    Figure(
        "segment_gap",
        "segmentation of a whole CT on a CPU over its floor",
        "×",
        f"{SCAN}; the floor: operations of one tile as large as the whole scan, which computes nothing twice and "
        "nothing beyond what the scan's voxels see, at the rate of the fastest matrix product of 2048³ (as in "
        "`cpu_step_gap`; four of each kind before and after)",
        at_most(1.3),
    ),
)
def whole_ct() -> Measured:
    """Seconds of a quarter of a scan, against operations."""
    part, segmenter = part_of_the_scan(), Segmenter(paper_model(), device=CPU)
    works, operations = products(torch.float32)
    with two_threads():
        before = interleaved(4, *works)
        taken = seconds(lambda: segmenter.segment(part))
        after = interleaved(4, *works)
    ceiling = operations / min(map(min, [*before, *after]))
    tiling = segmenter.predictors[0].tiling(segmenter.read(part).volume.shape_zyx)
    tiles = sum(operations_of(tuple(own.stop for own in tiling.places(tile)[1])) for tile in tiling)
    planes, *plane = tiling.shape_zyx
    whole = planes * TIMES, *plane
    floor, taken = operations_of(whole) / ceiling, taken * TIMES
    again, constant = tiles * TIMES / ceiling / floor, _constant(segmenter, tiling, part)
    return Measured(
        {"segment_gap": taken / floor},
        {
            "seconds a scan": f"{taken:.0f}, floor {floor:.0f}: {floor * ceiling / 1e12:.1f} TFLOP for "
            f"{' × '.join(map(str, whole))} voxels at {ceiling / 1e9:.0f} GFLOP/s",
            "tiles": f"{tiling.count * TIMES} of at most {tiling.geometry.patch}³, {again:.2f} × the floor's "
            f"operations; {constant:.0%} see one number at the finest level",
        },
    )


def part_of_the_scan() -> Path:
    """File of the part that is measured."""

    def write(path: Path) -> None:
        drawn_zyx = draw_phantom(0, "train", 0, DRAWN).volume_zyx
        planes = np.arange((PLANES - PART) // 2, (PLANES + PART) // 2) * len(drawn_zyx) // PLANES
        inside = np.arange(IN_PLANE) * DRAWN // IN_PLANE
        volume_xyz = drawn_zyx[np.ix_(planes, inside, inside)].transpose(2, 1, 0)
        nib.save(nib.Nifti1Image(volume_xyz, np.diag((*STEPS_ZYX[::-1], 1.0))), path)

    drawn_by = sorted((material.ROOT / "hpcseg" / "phantoms").glob("*.py"))
    return material.kept("ct.nii", [Path(__file__), *drawn_by], write)


@cache
def operations_of(shape_zyx: tuple[int, ...]) -> float:
    """Of one tile of such a shape, counted by torch without computing anything."""
    model = paper_model()
    network = model.config.network
    boxes = [FovealGeometry(voxels, network.kernel, network.levels).inputs for voxels in shape_zyx]
    images = [torch.empty(1, 1, *box, device="meta") for box in zip(*boxes, strict=True)]
    with FlopCounterMode(display=False) as counter:
        model.network(CPU).to("meta")(images)
    return counter.get_total_flops()


def paper_model() -> TrainedModel:
    """Random weights; a gain of 1 keeps the probabilities away from 0 and 1."""
    config = RunConfig.model_validate({"network": {"init_gain": 1.0}, "preprocessing": {"intensity": "window"}})
    return model_of(config, spacing=SPACING)


def _constant(segmenter: Segmenter, tiling: Tiling, part: Path) -> float:
    """Share of the tiles whose box of the finest level is all one number, clipped to the model's window."""
    volume, window = segmenter.read(part).volume, segmenter.model.config.preprocessing.window
    of_one_number = 0
    for tile in tiling:
        (box,) = read_sample(volume, tiling.geometry, tiling.origin(tile), [0], segmenter.model.pyramid_clip)
        (z, y, x), *_ = tiling.boxes(tile)
        of_one_number += np.ptp(volume.coding.decode(box[:z, :y, :x]).clip(*window)) == 0
    return of_one_number / tiling.count
