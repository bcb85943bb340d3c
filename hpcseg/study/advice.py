"""What a plan allows and may not be meant: patches far larger than the scans, voxels far finer than theirs, limits in
HU on scans without HU, labels of no class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from math import prod
from statistics import median

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.sections import toml_text
from hpcseg.study.catalogue import Catalogue
from hpcseg.text import counted, listed

FAR_LARGER = 3.0  # times the longest side of a scan
FAR_MORE = 64.0  # times the voxels of a scan
_LOOKED_AT = 3  # scans of a dataset, of which the headers are read
_SHOWN = 6  # labels
_BYTES = 2  # of a voxel


def advice(configs: Iterable[RunConfig], catalogue: Catalogue) -> list[str]:
    """A line for each thing that does not suit the scans, each once; cells share their sections, see `grids`."""
    distinct = {(id(c.data), id(c.preprocessing), id(c.patches), id(c.network), id(c.autoencoder)): c for c in configs}
    rules = (_labels, _intensities, _supplementary, _voxels, _size)
    return [*dict.fromkeys(line for config in distinct.values() for rule in rules for line in rule(config, catalogue))]


def _labels(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    classes, dataset = catalogue.classes(config), catalogue.main(config)
    taken = {0, dataset.ignore, *(value for values in classes for value in values)}
    left = [f"{value} ({name})" for value, name in dataset.labels.items() if value not in taken]
    if classes and left:
        yield (
            f"data.foreground = {toml_text(config.data.foreground)}: {counted(len(left), 'label')} of {dataset.name} "
            f"in no class, so background: {listed(left, _SHOWN)}"
        )


def _intensities(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    intensity, dataset = config.preprocessing.intensity, catalogue.main(config)
    if dataset.is_ct or intensity == "zscore":
        return
    limits = "a window in HU" if intensity == "window" else "the same limits for all scans"
    yield (
        f"preprocessing.intensity = {intensity!r} clips at {limits}, but {dataset.name} is {dataset.modality}, no CT, "
        'whose intensities have no common scale; "zscore" suits it'
    )


def _supplementary(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    section, dataset = config.preprocessing, catalogue.main(config)
    keys = [f"preprocessing.{key}" for key in ("padding", "pyramid_clip") if getattr(section, key) == "auto"]
    for name in config.data.supplementary if config.autoencoder.with_supplementary and keys else ():
        with contextlib.suppress(BadInput):  # an error of the strategies that read it
            if (other := catalogue.dataset(name)).is_ct == dataset.is_ct:
                continue
            yield (
                f"data.supplementary: {name} is {other.modality!r}, {dataset.name} is {dataset.modality!r}: "
                f"{' and '.join(keys)} = 'auto' differ between them; set what suits both, or correct dataset.json"
            )


def _voxels(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    more = [(prod(packed) / prod(own), packed) for own, packed in _shapes(config, catalogue)]
    if more and median(factor for factor, _ in more) > FAR_MORE:
        factor, shape = max(more)
        yield (
            f"preprocessing.spacing = {toml_text(config.preprocessing.spacing)}: a scan of {config.data.dataset} has "
            f"{' × '.join(f'{side:,.0f}' for side in shape)} voxels then, {factor:,.0f} times its own and "
            f"{prod(shape) * _BYTES / 2**30:,.3g} GiB as it is stored; a larger spacing suits it"
        )


def _shapes(config: RunConfig, catalogue: Catalogue) -> Iterator[tuple[list[float], list[float]]]:
    """Voxels on each axis of some scans, z, y, x: their own, and as they are packed but for what is cropped."""
    for case in catalogue.main(config).training[:_LOOKED_AT]:
        with contextlib.suppress(BadInput):  # what is wrong with a scan is said where it is read
            grid, spacing = catalogue.grid(case.image), catalogue.pack_spacing(config)
            sides = zip(grid.shape_zyx, grid.spacing_zyx, spacing, strict=True)
            yield [*grid.shape_zyx], [count * own / stored for count, own, stored in sides]


def _size(config: RunConfig, catalogue: Catalogue) -> Iterator[str]:
    patch, network = config.patches.size, config.network
    seen = FovealGeometry(patch, network.kernel, network.levels).reach if network.kind == "fnet" else 2 * patch
    longest = [max(packed) for _, packed in _shapes(config, catalogue)]
    if longest and seen > FAR_LARGER * median(longest):
        yield (
            f"patches.size = {patch} with network.levels = {network.levels}: the coarsest level sees {seen} voxels, "
            f"but scans of {config.data.dataset} have {median(longest):.0f} along their longest side; most of it would "
            "be padding, and fewer levels or a smaller patch suit them"
        )
