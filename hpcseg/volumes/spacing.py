"""The spacing of a store. Pure; apart from packing, so that a plan is made without what packing imports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcseg.config import PreprocessingConfig
from hpcseg.errors import BadInput
from hpcseg.spec import Spacing


def plan_spacing(config: PreprocessingConfig, spacings: Sequence[Spacing]) -> Spacing:
    """Choose the spacing of a store (paper 3.2.1), z, y, x in mm, rounded to 0.001 mm.

    "median": the median of the labelled cases' `spacings` on each axis; if `isotropic`, the largest of the three on
    every axis.

    Raises:
        BadInput: "median" of no case.
    """
    if not isinstance(config.spacing, str):
        wanted = config.spacing if isinstance(config.spacing, tuple) else (config.spacing,) * 3
        return wanted[0], wanted[1], wanted[2]
    if not spacings:
        raise BadInput("preprocessing.spacing: no labelled case to take the median of; give a spacing in mm")
    medians = np.median(np.asarray(spacings, dtype=np.float64), axis=0)
    if config.isotropic:
        medians = np.full(3, medians.max())
    z, y, x = (round(float(value), 3) for value in medians)
    if not min(z, y, x):
        raise BadInput(
            f"preprocessing.spacing: the median of the voxels is {min(medians):.3g} mm; correct the scans' headers, "
            "or give a spacing in mm"
        )
    return z, y, x
