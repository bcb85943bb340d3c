"""What a plan allows and nobody can mean: patches far larger than the scans, and limits in HU on scans without HU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from statistics import median

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.study.catalogue import Catalogue

FAR_LARGER = 3.0  # times the longest side of a scan
_LOOKED_AT = 3  # scans of a dataset, of which the headers are read


def advice(configs: Iterable[RunConfig], catalogue: Catalogue) -> list[str]:
    """A line for each thing that does not suit the scans, each once; cells share their sections, see `grids`."""
    distinct = {(id(c.data), id(c.preprocessing), id(c.patches), id(c.network)): c for c in configs}
    lines = (line for c in distinct.values() for line in (*_intensities(c, catalogue), *_size(c, catalogue)))
    return [*dict.fromkeys(lines)]


def _intensities(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    intensity, dataset = config.preprocessing.intensity, catalogue.main(config)
    if dataset.is_ct or intensity == "zscore":
        return
    limits = "a window in HU" if intensity == "window" else "the same limits for all scans"
    yield (
        f"preprocessing.intensity = {intensity!r} clips at {limits}, but {dataset.name} is {dataset.modality}, no CT, "
        'whose intensities have no common scale; "zscore" suits it'
    )


def _size(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    patch, network = config.patches.size, config.network
    seen = FovealGeometry(patch, network.kernel, network.levels).reach if network.kind == "fnet" else 2 * patch
    longest = []
    for case in catalogue.main(config).training[:_LOOKED_AT]:
        with contextlib.suppress(BadInput):  # what is wrong with a scan is said where it is read
            grid, spacing = catalogue.grid(case.image), catalogue.pack_spacing(config)
            sides = zip(grid.shape_zyx, grid.spacing_zyx, spacing, strict=True)
            longest.append(max(count * own / stored for count, own, stored in sides))
    if longest and seen > FAR_LARGER * median(longest):
        yield (
            f"patches.size = {patch} with network.levels = {network.levels}: the coarsest level sees {seen} voxels, "
            f"but scans of {config.data.dataset} have {median(longest):.0f} along their longest side; most of it would "
            "be padding, and fewer levels or a smaller patch suit them"
        )
