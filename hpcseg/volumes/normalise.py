"""Clip windows and normalisation, from histograms: no voxel is read. Pure.

Intensities are those of the scan (HU for CT). A histogram is (values ascending, counts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcseg.config import Pair, PreprocessingConfig
from hpcseg.errors import BadInput
from hpcseg.volumes.pyramid import Histogram
from hpcseg.volumes.store import StoredCase


@dataclass(frozen=True)
class Normalisation:
    """Intensity -> (clip(intensity, lo, hi) − mean) / std; std > 0."""

    lo: float
    hi: float
    mean: float
    std: float

    @property
    def limits(self) -> Pair:
        """Least and largest normalised intensity."""
        return (self.lo - self.mean) / self.std, (self.hi - self.mean) / self.std

    def apply(self, values: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Normalised float32 intensities of any shape; written to `out` where it is given."""
        out = np.clip(values, np.float32(self.lo), np.float32(self.hi), out=out)
        out -= np.float32(self.mean)
        out /= np.float32(self.std)
        return out


def percentile_window(cases: Sequence[StoredCase], percentiles: Pair) -> Pair:
    """Intensities at two percentiles of the pooled foreground voxels of `cases` (paper 3.2.1, method 2).

    As `numpy.percentile(..., method="inverted_cdf")` of all these voxels.

    Raises:
        BadInput: no case has a foreground voxel.
    """
    histograms = [case.foreground_histogram for case in cases]
    if not sum(len(values) for values, _ in histograms):
        raise BadInput("data.foreground: no labelled case has a foreground voxel; change data.foreground")
    values, counts = map(np.concatenate, zip(*histograms, strict=True))
    order = np.argsort(values, kind="stable")
    return histogram_percentiles((values[order], counts[order]), percentiles)


def normalisation(config: PreprocessingConfig, histogram: Histogram, window: Pair | None) -> Normalisation:
    """How one image is normalised, given the histogram of all its voxels.

    "percentile" (paper, method 2): clip to `window`, then z-score of the clipped image.
    "window" (method 1): clip to `config.window`, which is mapped to `config.window_range`.
    "zscore": clip to the image's own `config.percentiles`, then z-score.

    Raises:
        BadInput: "percentile" without a window.
    """
    if config.intensity == "window":
        (lo, hi), (bottom, top) = config.window, config.window_range
        std = (hi - lo) / (top - bottom)
        return Normalisation(lo, hi, lo - bottom * std, std)
    if config.intensity == "zscore":
        window = histogram_percentiles(histogram, config.percentiles)
    if window is None:
        raise BadInput('preprocessing.intensity = "percentile" needs labelled cases; label one or use "zscore"')
    values, counts = histogram
    clipped = np.clip(values.astype(np.float64), *window)
    mean = float(np.average(clipped, weights=counts))
    std = math.sqrt(float(np.average((clipped - mean) ** 2, weights=counts)))
    flat = std <= 1e-7 * max(abs(window[0]), abs(window[1]))  # what rounding leaves of a constant image
    return Normalisation(window[0], window[1], mean, 1.0 if flat else std)


def histogram_percentiles(histogram: Histogram, percentiles: Pair) -> Pair:
    """Smallest values with at least those two shares (%) of the voxels at or below them."""
    values, counts = histogram
    reached = np.cumsum(counts)
    ranks = [max(1, math.ceil(reached[-1] * percent / 100)) for percent in percentiles]
    low, high = (float(values[np.searchsorted(reached, rank)]) for rank in ranks)
    return low, high
