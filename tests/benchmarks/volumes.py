"""Figures of the room `volumes`: resampling, packing, opening a store."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import numpy as np
from scipy import ndimage

from hpcseg.config import PreprocessingConfig
from hpcseg.host import usable_cores
from hpcseg.spec import PackSpec
from hpcseg.volumes.datasets import open_dataset
from hpcseg.volumes.packing import pack
from hpcseg.volumes.resample import cubic_matrix, resample_cubic
from hpcseg.volumes.scans import read_grid
from hpcseg.volumes.spacing import plan_spacing
from hpcseg.volumes.store import Store
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, Skipped, at_least, at_most, benchmark
from tests.benchmarks.timing import (
    PeakMemory,
    fastest,
    in_fresh_process,
    one_thread,
    seconds,
    warm_file,
)

SCAN_SHAPE = (100, 512, 512)
RESAMPLED_SHAPE = (250, 390, 390)
REAL_SCAN = "chaos_ct03"
MB = 1e6


@benchmark(
    Figure(
        "resample_ratio",
        "speed of cubic resampling over scipy's",
        "×",
        "`resample_cubic` (its matrices made anew) and `scipy.ndimage.zoom(order=3)` in turn, 512×512×100 to "
        "390×390×250 float32, all cores, once and five times in each of 3 rounds; fastest call by fastest call",
        at_least(10),
    ),
    Figure(
        "resample_error",
        "largest difference of the two results",
        "intensity units",
        "largest absolute difference over all voxels of white noise (300 HU, clipped to −1000 ... 3000 HU)",
        at_most(0.01),
    ),
)
def resampling() -> Measured:
    """Three matrix products against scipy's own zoom."""
    rng = np.random.default_rng(0)
    volume = rng.normal(0, 300, SCAN_SHAPE).astype(np.float32).clip(-1000, 3000)
    factors = [new / old for old, new in zip(SCAN_SHAPE, RESAMPLED_SHAPE, strict=True)]
    results: dict[str, np.ndarray] = {}

    def scipy() -> None:
        results["scipy"] = ndimage.zoom(volume, factors, order=3)

    def ours() -> None:
        cubic_matrix.cache_clear()
        results["ours"] = resample_cubic(volume, RESAMPLED_SHAPE)

    ours()  # the libraries' threads have started
    timed = [(seconds(scipy), min(seconds(ours) for _ in range(5))) for _ in range(3)]
    error = max(float(np.abs(a - b).max()) for a, b in zip(results["scipy"], results["ours"], strict=True))
    return Measured(
        {"resample_ratio": fastest(timed, 0) / fastest(timed, 1), "resample_error": error},
        {
            "seconds, fastest": f"scipy {fastest(timed, 0):.2f}, hpcseg {fastest(timed, 1):.2f} "
            f"on {usable_cores()} cores"
        },
    )


@benchmark(
    Figure(
        "pack_peak_ratio",
        "peak memory of packing a real CT, in volumes",
        "×",
        f"`pack` of `{REAL_SCAN}` (512×512×78) alone, one worker, in a fresh process: peak resident memory above that "
        "just before, by the bytes of the scan as float32 (81.8 MB); the larger of both spacings below",
        at_most(3),
    ),
)
def packing() -> Measured:
    """Time and peak memory of packing a real CT, to 1 mm and to its largest spacing."""
    root = material.REAL / "Task03_LiverCT"
    if not root.is_dir():
        raise Skipped("the real CTs (../shared/data/Task03_LiverCT) are not here")
    dataset = open_dataset(root)
    case = next(case for case in dataset.training if case.name == REAL_SCAN)
    grid = read_grid(case.image)
    warm_file(case.image)
    scan_bytes = 4 * float(np.prod(grid.shape_zyx))
    largest = plan_spacing(PreprocessingConfig(), [grid.spacing_zyx])
    ratios = []
    details = {"the scan": f"{scan_bytes / MB:.1f} MB as float32, {_by(grid.spacing_zyx)} mm"}
    for spacing in ((1.0, 1.0, 1.0), largest):
        spec = material.pack_spec(dataset.name, (case,), spacing)
        store, taken, peak = _packed_in_fresh_process(spec)
        resampled = 4 * float(np.prod(store))
        ratios.append(peak / scan_bytes)
        details[f"to {spacing[0]:g} mm isotropic"] = (
            f"{taken:.1f} s, peak {peak / MB:.0f} MB = {peak / scan_bytes:.2f} × the scan, {peak / resampled:.2f} × "
            f"the resampled volume ({_by(store)}, {resampled / MB:.1f} MB)"
        )
    return Measured({"pack_peak_ratio": max(ratios)}, details)


@benchmark(
    Figure(
        "store_open_s",
        "opening a store of 1,000 cases",
        "s",
        "`Store(path)`, then shape, coding and padding of each of the 1,000 cases, in a fresh process (imports done, "
        "page cache warm); median of 5 processes",
        at_most(0.3),
    ),
    Figure(
        "store_first_patch_ms",
        "the first foveal sample after that",
        "ms",
        "`SegmentationBatches` over all 1,000 cases and its first sample, about a foreground voxel, in the same "
        "processes; median",
        at_most(50),
    ),
)
def opening() -> Measured:
    """From nothing to the first patch of a large store."""
    store = material.store_of_1000()
    warm_file(store)
    found = [in_fresh_process(open_and_read, store) for _ in range(5)]
    return Measured(
        {
            "store_open_s": median(opened for opened, _ in found),
            "store_first_patch_ms": 1e3 * median(first for _, first in found),
        },
        {
            "the store": f"{store.stat().st_size / 1e9:.2f} GB",
            "slowest process": f"{max(opened for opened, _ in found):.3f} s, then "
            f"{1e3 * max(first for _, first in found):.1f} ms",
        },
    )


def pack_once(spec: PackSpec, destination: Path) -> tuple[float, int]:
    """Pack in this process: seconds, and bytes of the peak above what was there before."""
    with PeakMemory() as peak:
        taken = seconds(lambda: pack(spec, destination))
    return taken, peak.bytes


def open_and_read(path: Path) -> tuple[float, float]:
    """Open a store in this process: seconds until every case is usable, seconds from there to a first sample."""
    from tests.benchmarks.patches import Reader

    with one_thread():
        begin = time.perf_counter()
        store = Store(path)
        cases = [store.case(name) for name in store.names]
        assert all(case.labelled and case.coding.slope > 0 and case.shape_zyx and case.padding < 0 for case in cases)
        opened = time.perf_counter()
        Reader(store, batch=1).read(0)
        return opened - begin, time.perf_counter() - opened


def _packed_in_fresh_process(spec: PackSpec) -> tuple[tuple[int, ...], float, int]:
    """Shape of the only case, seconds and peak bytes."""
    material.KEPT.mkdir(exist_ok=True)
    destination = material.KEPT / "packing.h5"
    try:
        taken, peak = in_fresh_process(pack_once, spec, destination)
        with Store(destination) as store:
            return store.case(store.names[0]).shape_zyx, taken, peak
    finally:
        material.remove(destination)


def _by(numbers: tuple[float, ...]) -> str:
    return " × ".join(f"{number:g}" for number in numbers)
