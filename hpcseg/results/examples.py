"""The exemplar figure: one case as each strategy (rows) segments it with n labelled volumes (columns; figure 8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcseg.results.axes import label, sort_axis
from hpcseg.results.collect import Axis, Collection, FigureDefinition, Run, TableDefinition
from hpcseg.results.style import PAGE, SKY, YELLOW, new_figure
from hpcseg.results.tables import Replicate, select_runs
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scans import ScanGrid, read_image, read_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CT_WINDOW = (-160.0, 240.0)  # HU
MARGIN = 0.35  # of the reference's extent, shown around it

Place = tuple[Axis, Axis]  # row and column of the figure: hue, x


@dataclass(frozen=True)
class Exemplar:
    """The slice that is shown: image (Z, Y), class indices of the reference (Z, Y), and where they are in the scan."""

    case: str
    image_zy: NDArray[np.float32]
    reference_zy: NDArray[np.uint8]
    grid: ScanGrid
    at: tuple[slice, slice, int]  # z, y, x
    window: tuple[float, float]


def draw_examples(definition: FigureDefinition, collection: Collection, runs_root: Path) -> Figure | str:
    """Sagittal slices of one case with the reference's and the prediction's contours, or why there are none.

    The case is the one of median DSC among those that all runs of one replicate have segmented. The slice is the one
    with most of the reference; front is left and head is up.
    """
    runs = select_runs(
        TableDefinition(
            name=definition.name, grid=definition.grid, rows=definition.hue, columns=definition.x, over=definition.over
        ),
        collection,
    )
    rows, columns = sort_axis(row for row, _ in runs), sort_axis(column for _, column in runs)
    chosen = _replicate_with_most_masks(runs, runs_root, definition.set)
    if not chosen:
        return (
            f"no finished run has masks of the {definition.set} set below {runs_root / 'train'} (inference.save_masks)"
        )
    case = _median_case(chosen, runs_root, definition.set)
    exemplar = _exemplar(next(iter(chosen.values())), runs_root, definition.set, case) if case else None
    if exemplar is None:
        return f"the runs have no case of the {definition.set} set with a mask and a reference in common"
    height, width = exemplar.image_zy.shape
    spacing = exemplar.grid.spacing_zyx
    aspect = spacing[0] / spacing[1]
    panel = min(1.6, (PAGE - 0.35) / len(columns))
    figure = new_figure(panel * len(columns) + 0.35, panel * height * aspect / width * len(rows) + 0.55)
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for axes, column in zip(line, columns, strict=True):
            _panel(axes, exemplar, chosen.get((row, column)), runs_root, definition.set, aspect)
        line[0].set_ylabel(label(row))
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_title(f"{label(definition.x)} = {label(column)}", fontsize=7)
    _legend(figure)
    return figure


def _mask(runs_root: Path, run: Run, name: str, case: str) -> Path:
    return runs_root / "train" / run.id / "predictions" / name / f"{case}.nii.gz"


def _scores(run: Run, name: str) -> dict[str, float]:
    """Mean DSC over classes of every case of the set."""
    cases: dict[str, list[float]] = {}
    for score in run.result.sets.get(name, ()) if run.result else ():
        if score.dsc is not None:
            cases.setdefault(score.case, []).append(score.dsc)
    return {case: fmean(values) for case, values in cases.items()}


def _replicate_with_most_masks(
    runs: dict[Place, list[tuple[Replicate, Run]]], runs_root: Path, name: str
) -> dict[Place, Run]:
    """The runs of the replicate with most runs that left masks; the first one on ties."""
    replicates: dict[Replicate, dict[Place, Run]] = {}
    for place, found in runs.items():
        for replicate, run in found:
            if any(_mask(runs_root, run, name, case).exists() for case in _scores(run, name)):
                replicates.setdefault(replicate, {})[place] = run
    return max(replicates.values(), key=len, default={})


def _median_case(chosen: dict[Place, Run], runs_root: Path, name: str) -> str | None:
    scores = [_scores(run, name) for run in chosen.values()]
    common = [
        case
        for case in sorted(scores[0])
        if all(case in found for found in scores)
        and all(_mask(runs_root, run, name, case).exists() for run in chosen.values())
    ]
    ranked = sorted(common, key=lambda case: fmean(found[case] for found in scores))
    return ranked[len(ranked) // 2] if ranked else None


def _exemplar(run: Run, runs_root: Path, name: str, case: str) -> Exemplar | None:
    """The slice to show, or None where the run's specification has no reference for the case."""
    spec = read_spec(runs_root / "train" / run.id)
    if not isinstance(spec, TrainSpec):
        return None
    scans = spec.test_scans if name == "test" else spec.validation_scans
    scan = next((scan for scan in scans if scan.name == case), None)
    if scan is None or scan.label is None:
        return None
    image_zyx, grid = read_image(scan.image)
    reference_zyx = merge_labels(read_label(scan.label, grid), spec.classes_in(name))
    x = int(np.count_nonzero(reference_zyx, axis=(0, 1)).argmax())
    z = _extent(np.flatnonzero(reference_zyx[:, :, x].any(axis=1)), image_zyx.shape[0])
    y = _extent(np.flatnonzero(reference_zyx[:, :, x].any(axis=0)), image_zyx.shape[1])
    low, high = np.percentile(image_zyx, (1, 99.5))
    window = CT_WINDOW if image_zyx.min() < -500 else (float(low), float(high))
    return Exemplar(case, image_zyx[z, y, x], reference_zyx[z, y, x], grid, (z, y, x), window)


def _extent(found: NDArray[np.intp], size: int) -> slice:
    if not len(found):
        return slice(0, size)
    margin = int(MARGIN * (found[-1] - found[0] + 1)) + 2
    return slice(max(0, int(found[0]) - margin), min(size, int(found[-1]) + margin + 1))


def _panel(axes: Axes, exemplar: Exemplar, run: Run | None, runs_root: Path, name: str, aspect: float) -> None:
    low, high = exemplar.window
    axes.imshow(
        exemplar.image_zy, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear", origin="lower"
    )
    axes.invert_xaxis()  # front to the left
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    _contours(axes, exemplar.reference_zy, YELLOW, 1.5)
    if run is None:
        axes.text(0.5, 0.5, "missing", transform=axes.transAxes, color="white", ha="center", fontsize=6)
        return
    mask_zyx = read_label(_mask(runs_root, run, name, exemplar.case), exemplar.grid)
    _contours(axes, mask_zyx[exemplar.at], SKY, 0.8)
    score = f"{_scores(run, name)[exemplar.case]:.3f}"
    axes.text(0.97, 0.04, score, transform=axes.transAxes, color="white", ha="right", fontsize=6)


def _contours(axes: Axes, classes_zy: NDArray[np.uint8], colour: str, width: float) -> None:
    for class_ in np.unique(classes_zy[classes_zy > 0]):
        inside = (classes_zy == class_).astype(np.float32)
        if inside.min() < inside.max():
            axes.contour(inside, levels=[0.5], colors=[colour], linewidths=width)


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    entries = (("reference", YELLOW, 2.0), ("prediction", SKY, 1.2))
    handles = [Line2D([], [], color=colour, lw=width, label=text) for text, colour, width in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
