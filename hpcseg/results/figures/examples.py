"""The exemplar figure: one case as each strategy (rows) segments it with n labelled volumes (columns; figure 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.inference.metrics import DSC
from hpcseg.inspection.views import CT_WINDOW
from hpcseg.paths import PREDICTIONS_FOLDER
from hpcseg.results.collection import Collection, Run
from hpcseg.results.figures.legends import labels_of, seeds_of
from hpcseg.results.figures.style import (
    PAGE,
    SKY,
    SMALL,
    TALLEST,
    YELLOW,
    arrange,
    bare,
    finish,
    new_figure,
    wrapped,
)
from hpcseg.results.tables.axes import sort_axis
from hpcseg.results.tables.cells import Replicate
from hpcseg.results.tables.rendering import STALE
from hpcseg.results.tables.tables import select_runs
from hpcseg.spec import IGNORED, TrainSpec
from hpcseg.study.tables import Axis, FigureDefinition
from hpcseg.volumes.boxes import bounding_box
from hpcseg.volumes.digests import require_unchanged
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scan_grid import ScanGrid
from hpcseg.volumes.scans import read_image, read_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGIN = 0.35  # of the reference's extent, shown around it

Place = tuple[Axis, Axis]  # column and row of the figure: x, hue


@dataclass(frozen=True)
class Exemplar:
    """The slice that is shown: image (Z, Y), label values of the reference (Z, Y), and where they are in the scan."""

    case: str
    image_zy: NDArray[np.float32]
    label_zy: NDArray[np.uint8]
    grid: ScanGrid
    at: tuple[slice, slice, int]  # z, y, x
    window: tuple[float, float]

    @property
    def aspect(self) -> float:
        """Height of a voxel over its width."""
        spacing_zyx = self.grid.spacing_zyx
        return spacing_zyx[0] / spacing_zyx[1]


def draw_examples(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """Sagittal slices of one case with the reference's and the prediction's contours, or why there are none.

    The case is the one of median DSC among those that all runs of one replicate have segmented. The slice is the one
    with most of the reference; front is left and head is up.
    """
    name, labels = definition.set, labels_of(definition, collection)
    runs = select_runs(definition.as_table(), collection)
    columns, rows = sort_axis(x for x, _ in runs), sort_axis(hue for _, hue in runs)
    replicate, chosen = _replicate_with_most_masks(runs, name)
    if not chosen:
        return f"no finished run has masks of the {name} set below {collection.root / 'train'} (inference.save_masks)"
    case = _median_case(list(chosen.values()), name)
    try:
        exemplar = _exemplar(list(chosen.values()), name, case) if case else None
        if exemplar is None:
            return f"the runs have no case of the {name} set with a mask and a reference in common"
        classes = {place: _classes(exemplar, run, name) for place, run in chosen.items()}
    except BadInput as error:  # the data, or a mask, were moved, purged or changed since
        return str(error)
    over = len(definition.over)
    where = [f"{key} {value}" for key, value in zip(definition.over, replicate[:over], strict=True)]
    where += map(str, replicate[over:])  # where several runs have these: the rest of what tells one from the others
    if not any(one.startswith("seed") for one in where):
        where.append(seeds_of(chosen.values()))
    note = f"{case}, the {name} case of median DSC, sagittal, with its DSC; {', '.join(where)}."
    if any(run.stale for run in chosen.values()):
        note += f" {STALE}: a stale result."
    figure = _empty_grid(exemplar, len(rows), len(columns), note)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for axes, column in zip(line, columns, strict=True):
            place = column, row
            _panel(axes, exemplar, chosen.get(place), name, classes.get(place) or next(iter(classes.values()))[:1])
        line[0].set_ylabel(labels.hue(row))
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_title(labels.panel(column), fontsize=7)
    _scale_bar(panels[-1][0], exemplar)
    finish(figure, _legend(), note)
    return figure


def _empty_grid(exemplar: Exemplar, rows: int, columns: int, note: str) -> Figure:
    """A figure with room for panels of the slice's shape, not higher than a page, and for the note."""
    height, width = exemplar.image_zy.shape
    ratio = height / width * exemplar.aspect
    panel = min(1.4, (PAGE - 0.3) / columns, (TALLEST - 0.7) / (rows * ratio))
    whole = max(panel * columns + 0.3, 2.2)
    lines = len(wrapped(note, whole, SMALL).splitlines())
    figure = new_figure(whole, panel * ratio * rows + 0.5 + 0.1 * lines)
    arrange(figure, w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    return figure


def _mask(run: Run, name: str, case: str) -> Path:
    return run.folder / PREDICTIONS_FOLDER / name / f"{case}.nii.gz"


def _scores(run: Run, name: str) -> dict[str, float]:
    """Mean DSC over classes of every case of the set."""
    scores = run.result.sets.get(name) if run.result else None
    return scores.by_case(DSC)[0] if scores else {}


def _replicate_with_most_masks(
    runs: Mapping[Place, Sequence[tuple[Replicate, Run]]], name: str
) -> tuple[Replicate, dict[Place, Run]]:
    """The replicate with most runs that left masks, and these; the first one on ties."""
    replicates: dict[Replicate, dict[Place, Run]] = {}
    for place, found in runs.items():
        for replicate, run in found:
            there = (run.folder / PREDICTIONS_FOLDER / name).is_dir()
            if there and any(_mask(run, name, case).exists() for case in _scores(run, name)):
                replicates.setdefault(replicate, {})[place] = run
    return max(replicates.items(), key=lambda item: len(item[1]), default=((), {}))


def _median_case(runs: Sequence[Run], name: str) -> str | None:
    scores = [_scores(run, name) for run in runs]
    common = [
        case
        for case in sorted(scores[0])
        if all(case in found for found in scores) and all(_mask(run, name, case).exists() for run in runs)
    ]
    ranked = sorted(common, key=lambda case: fmean(found[case] for found in scores))
    return ranked[len(ranked) // 2] if ranked else None


def _exemplar(runs: Sequence[Run], name: str, case: str) -> Exemplar | None:
    """The slice to show, or None where the first run's specification has no reference for the case.

    Raises:
        BadInput: the scan or its label is missing, or another than one of the runs was measured on.
    """
    specs = [spec for run in runs if (spec := run.specification()) is not None]
    found = [next((scan for scan in spec.scans_in(name) if scan.name == case), None) for spec in specs]
    require_unchanged(scan for scan in found if scan is not None)
    spec, scan = (specs[0], found[0]) if specs else (None, None)
    if spec is None or scan is None or scan.label is None:
        return None
    image_zyx, grid = read_image(scan.image)
    label_zyx = read_label(scan.label, grid)
    reference_zyx = _merged(label_zyx, spec, name)
    x = int(np.count_nonzero(reference_zyx, axis=(0, 1)).argmax())
    shown_xzy = reference_zyx[None, :, :, x]
    _, z, y = bounding_box(shown_xzy.shape, lambda part: shown_xzy[part] > 0)
    z, y = _with_margin(z, image_zyx.shape[0]), _with_margin(y, image_zyx.shape[1])
    low, high = np.percentile(image_zyx, (1, 99.5))
    window = CT_WINDOW if image_zyx.min() < -500 else (float(low), float(high))
    return Exemplar(case, image_zyx[z, y, x], label_zyx[z, y, x].copy(), grid, (z, y, x), window)


def _classes(exemplar: Exemplar, run: Run, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What a run's reference and its mask say on the slice, class indices (Z, Y); runs may differ in their classes.

    Raises:
        BadInput: the mask cannot be read, or is of another grid.
    """
    mask_zyx, spec = read_label(_mask(run, name, exemplar.case), exemplar.grid), run.specification()
    return _merged(exemplar.label_zy[None], spec, name)[0], mask_zyx[exemplar.at].copy()


def _merged(label_zyx: NDArray[np.uint8], spec: TrainSpec | None, name: str) -> NDArray[np.uint8]:
    """Class indices of label values, as a run has its classes; ignored voxels are of none."""
    classes, ignored = (spec.classes_in(name), spec.ignored_in(name)) if spec is not None else ((), None)
    merged_zyx = merge_labels(label_zyx, classes, ignored)
    merged_zyx[merged_zyx == IGNORED] = 0
    return merged_zyx


def _with_margin(found: slice, size: int) -> slice:
    """The extent with what is shown around it; all of it where it is empty."""
    if found.start == found.stop:
        return slice(0, size)
    margin = int(MARGIN * (found.stop - found.start)) + 2
    return slice(max(0, found.start - margin), min(size, found.stop + margin))


def _panel(
    axes: Axes,
    exemplar: Exemplar,
    run: Run | None,
    name: str,
    classes: Sequence[NDArray[np.uint8]],  # of the reference, and where there is a run of its mask
) -> None:
    low, high = exemplar.window
    image: Any = {"cmap": "gray", "vmin": low, "vmax": high, "interpolation": "bilinear", "origin": "lower"}
    axes.imshow(exemplar.image_zy, aspect=exemplar.aspect, **image)
    bare(axes).invert_xaxis()  # front to the left
    for classes_zy, line in zip(classes, _lines().values(), strict=False):
        _contours(axes, classes_zy, line)
    if run is None:
        _write(axes, 0.5, 0.5, "missing", "center")
        return
    _write(axes, 0.97, 0.04, f"{_scores(run, name)[exemplar.case]:.3f}{STALE * bool(run.stale)}", "right")


def _scale_bar(axes: Axes, exemplar: Exemplar) -> None:
    """A bar of a round length in the lower left corner, with its millimetres."""
    from matplotlib.lines import Line2D

    whole = exemplar.image_zy.shape[1] * exemplar.grid.spacing_zyx[1]
    length = round_length(whole / 3)
    bar = Line2D([0.05, 0.05 + length / whole], [0.06, 0.06], transform=axes.transAxes, color="white", lw=1.5)
    bar.set(solid_capstyle="butt", path_effects=_edged(2.5))
    axes.add_artist(bar)
    _write(axes, 0.05, 0.09, f"{length:g} mm", "left")


def round_length(most: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no longer.

    >>> [round_length(most) for most in (73.0, 20.0, 0.19)]
    [50.0, 20.0, 0.1]
    """
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def _write(axes: Axes, x: float, y: float, text: str, align: Literal["center", "left", "right"]) -> None:
    """White on dark, with a dark edge where the image is bright."""
    written = axes.text(x, y, text, transform=axes.transAxes, color="white", ha=align, fontsize=SMALL)
    written.set_path_effects(_edged(1.2))


def _contours(axes: Axes, classes_zy: NDArray[np.uint8], line: Mapping[str, Any]) -> None:
    for class_ in np.unique(classes_zy[classes_zy > 0]):
        inside = (classes_zy == class_).astype(np.float32)
        if inside.min() < inside.max():
            drawn = axes.contour(inside, levels=[0.5], colors=[line["color"]], linewidths=line["lw"])
            drawn.set_path_effects(line["path_effects"])


def _edged(width: float) -> list[Any]:
    """A black edge, for a whole width in points: light lines are lost on bright ground without, in grey most of all."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="black")]


def _lines() -> dict[str, dict[str, Any]]:
    """How each contour is drawn, by what it is of: a broad band, and a thin line with an edge upon it."""
    return {
        "reference": {"color": YELLOW, "lw": 2.2, "path_effects": []},
        "prediction": {"color": SKY, "lw": 0.7, "path_effects": _edged(1.2)},
    }


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=text, **line) for text, line in _lines().items()]
