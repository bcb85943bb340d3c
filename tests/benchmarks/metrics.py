"""Figures of the metrics: how long all of them take on a large pair of masks, and beside MONAI's."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.inference.metrics import measure
from tests.benchmarks.figures import Figure, Measured, at_least, benchmark
from tests.benchmarks.hardware import package_version
from tests.benchmarks.timing import fastest, interleaved, median_ratio, one_thread

SHAPE = (300, 512, 512)
SPACING = (1.0, 0.75, 0.75)
NSD_MM = 5.0
SEEN = "512 × 512 × 300 voxels, a liver of 1.7 l found with a DSC of 0.95, one thread"
OURS = "DSC, HD95, Hausdorff, normalised and average surface distance, volumes"


@benchmark(
    Figure("metrics_s", "all metrics of a class", "s", f"{OURS}; {SEEN}; median of 5 rounds"),
)
def metrics() -> Measured:
    """Our own time, without anything beside it."""
    mask, reference = livers()
    with one_thread():
        timed = interleaved(5, lambda: ours(mask, reference))
    return Measured({"metrics_s": median(one[0] for one in timed)}, {"found": described(ours(mask, reference))})


@benchmark(
    Figure(
        "metrics_ratio",
        "MONAI's time for the same metrics over ours",
        "×",
        f"`compute_dice`, `compute_hausdorff_distance` (95 and 100), `compute_surface_dice` and "
        f"`compute_average_surface_distance`, and ours, in turn; {SEEN}; median of 5 rounds' ratios",
        at_least(5),
    ),
    peers=True,
)
def monai_metrics() -> Measured:
    """MONAI's functions for single pairs, on the CPU."""
    import torch

    mask, reference = livers()
    pair = [torch.from_numpy(one)[None, None].float() for one in (mask, reference)]  # what it computes with
    with one_thread():
        timed = interleaved(5, lambda: monai(pair), lambda: ours(mask, reference))
    found, theirs = ours(mask, reference), monai(pair)
    apart = max(abs((found[name] or 0.0) - value) for name, value in theirs.items())
    return Measured(
        {"metrics_ratio": median_ratio(timed, 0, 1)},
        {
            f"MONAI {package_version('monai')}": f"{fastest(timed, 0):.2f} s; hpcseg {fastest(timed, 1):.2f} s",
            "values": f"{described(found)}; largest difference {apart:.1g}",
        },
    )


def ours(mask: NDArray[np.uint8], reference: NDArray[np.uint8]) -> dict[str, float | None]:
    """All metrics of the pair."""
    return measure(mask, reference, 1, SPACING, NSD_MM)[0]


def monai(pair: list[Any]) -> dict[str, float]:
    """MONAI's, under our names."""
    from monai import metrics

    options: dict[str, Any] = {"include_background": True, "spacing": SPACING}
    return {
        "dsc": metrics.compute_dice(*pair, include_background=True).item(),
        "hd95": metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        "hd": metrics.compute_hausdorff_distance(*pair, **options).item(),
        "nsd": metrics.compute_surface_dice(*pair, class_thresholds=[NSD_MM], **options).item(),
        "asd": metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item(),
    }


def livers() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A lumpy ellipsoid of a liver's size, and another one that is a little off it."""
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    lumps = 0.05 * np.sin(z / 7) * np.sin(y / 9 + 1) * np.sin(x / 11)

    def liver(dz: float, dy: float, dx: float) -> NDArray[np.uint8]:
        reach = ((z - 150 - dz) / 75) ** 2 + ((y - 260 - dy) / 85) ** 2 + ((x - 200 - dx) / 115) ** 2
        return (reach + lumps < 1).astype(np.uint8)

    return liver(3, 4, -4), liver(0, 0, 0)


def described(found: dict[str, float | None]) -> str:
    """The values in a line."""
    return (
        "DSC {dsc:.3f}, HD95 {hd95:.2f} mm, Hausdorff {hd:.2f} mm, NSD {nsd:.3f} at {nsd_mm:g} mm, ASD {asd:.2f} mm, "
        "{reference_ml:.0f} ml".format_map({**found, "nsd_mm": NSD_MM})
    )
