"""Pictures as PNG: each case's slices with the contours of its label, and contact sheets of all cases."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcseg.errors import BadInput
from hpcseg.files import make_folder, replacing
from hpcseg.inspection.views import Picture, View, Window
from hpcseg.paths import plain_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERVIEW = "overview"
PER_SHEET = (6, 10)  # rows, columns
# Okabe and Ito, the brightest first: they stand on grey.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_WIDTH = 10.0  # inches
_DPI = 110
_TILE = 128  # voxels along the longer side
_STYLES = ("solid", "dashed", "dotted")
_LEGEND, _NAME = 8, 16  # labels, and letters of a name
_BLACK, _DARK, _GREY = "#000000", "#444444", "#BBBBBB"


class Album:
    """A folder of pictures, one per case, and contact sheets. Cases may be added from several threads.

    Args:
        folder: is made.
        names: of all cases that may be added.
        force: replace files that exist.

    Raises:
        BadInput: a file exists, or a name is no name of a file.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, force: bool) -> None:
        try:
            names = [plain_name(name) for name in names]
        except ValueError as error:
            raise BadInput(f"{error}, as this store has it of a case; pack the dataset again") from None
        self._folder = folder
        per_sheet = PER_SHEET[0] * PER_SHEET[1]
        sheets = -(-len(names) // per_sheet)
        self._sheets = [folder / f"{OVERVIEW}{f'_{n + 1}' if sheets > 1 else ''}.png" for n in range(sheets)]
        self._places = {name: divmod(n, per_sheet) for n, name in enumerate(names)}
        self._tiles: dict[str, tuple[View, Window]] = {}
        self._lock = threading.Lock()
        for path in [*(folder / f"{name}.png" for name in names), *self._sheets]:
            if path.exists() and not force:
                raise BadInput(f"{path}: exists; give another folder or --force to replace it")

    def add(self, picture: Picture) -> None:
        """Draw a case, and keep a small view of it for the contact sheet."""
        with self._lock, _as_it_is():  # matplotlib draws in one thread at a time
            _save(_draw(picture), self._folder / f"{picture.name}.png")
            self._tiles[picture.name] = (_tile(picture.views[0]), picture.window)

    def finish(self) -> list[Path]:
        """Draw the contact sheets; returns all files that were written, cases first."""
        paths = [self._folder / f"{name}.png" for name in self._places if name in self._tiles]
        for number, path in enumerate(self._sheets):
            tiles = {
                place: (name, *self._tiles[name])
                for name, (sheet, place) in self._places.items()
                if sheet == number and name in self._tiles
            }
            if tiles:
                with _as_it_is():
                    _save(_draw_sheet(tiles), path)
                paths.append(path)
        return paths


def _tile(view: View) -> View:
    step = -(-max(view.image.shape) // _TILE)
    label = None if view.label is None else view.label[::step, ::step].copy()
    return View(view.image[::step, ::step].copy(), label, (view.spacing[0] * step, view.spacing[1] * step))


def _draw(picture: Picture) -> Figure:
    """The views side by side at one scale, the small ones below."""
    gap, head, foot = 0.12, 0.75, 0.35  # inches
    heights, widths = zip(*(view.size for view in picture.views), strict=True)
    scale = min((_WIDTH - 4 * gap) / sum(widths), 8 / max(heights))  # inches per mm
    main = max(heights) * scale
    below = 1.7 if picture.small else 0.0
    height = head + main + gap + below + foot
    figure = _new_figure(_WIDTH, height)
    figure.text(gap / _WIDTH, 1 - 0.13 / height, picture.name, color="white", size=11, weight="bold", va="top")
    window = f"window {picture.window[0]:.4g} to {picture.window[1]:.4g}"
    caption = f"{picture.caption}, {window}"
    figure.text(gap / _WIDTH, 1 - 0.36 / height, caption, color=_GREY, size=8, va="top")

    def place(view: View, left: float, bottom: float, scale: float) -> None:
        rows, columns = view.size
        box = (left / _WIDTH, bottom / height, columns * scale / _WIDTH, rows * scale / height)
        _panel(figure.add_axes(box), view, picture.window)

    left = (_WIDTH - sum(widths) * scale - 2 * gap) / 2
    for view in picture.views:
        rows, columns = view.size
        place(view, left, foot + below + gap + (main - rows * scale) / 2, scale)
        left += columns * scale + gap
    left = gap
    for view in picture.small:
        fit = (below - 0.2) / view.size[0]
        place(view, left, foot, fit)
        left += view.size[1] * fit + 2 * gap
    _legend(figure, picture)
    return figure


def _panel(axes: Axes, view: View, window: Window) -> None:
    from matplotlib import patheffects

    rows, columns = view.size
    axes.imshow(
        view.image,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=(0, columns, 0, rows),
        aspect="auto",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=_DARK, linewidth=0.5)
    if view.label is not None:
        y, x = ((np.arange(-1, n + 1) + 0.5) * size for n, size in zip(view.label.shape, view.spacing, strict=True))
        for value in np.unique(view.label[view.label > 0]).tolist():
            colour, style = _look(value)
            inside = np.pad((view.label == value).astype(np.float32), 1)  # closed at the edge, too
            axes.contour(x, y, inside, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.1)
        axes.set(xlim=(0, columns), ylim=(0, rows))
    if view.lines is not None:
        axes.axhline(view.lines[0] * view.spacing[0], color="white", lw=0.4, alpha=0.35)
        axes.axvline(view.lines[1] * view.spacing[1], color="white", lw=0.4, alpha=0.35)
    axes.set_title(view.title, color=_GREY, size=7, pad=2)
    outline = [patheffects.withStroke(linewidth=2, foreground=_BLACK)]
    places = (
        (0.01, 0.5, "left", "center"),
        (0.99, 0.5, "right", "center"),
        (0.5, 0.01, "center", "bottom"),
        (0.5, 0.985, "center", "top"),
    )
    for letter, (x_, y_, ha, va) in zip(view.letters, places, strict=False):
        axes.text(x_, y_, letter, color="white", size=8, ha=ha, va=va, transform=axes.transAxes, path_effects=outline)


def _look(value: int) -> tuple[str, str]:
    """Colour and line style of a label value."""
    turn, colour = divmod(value - 1, len(COLOURS))
    return COLOURS[colour], _STYLES[turn % len(_STYLES)]


def _legend(figure: Figure, picture: Picture) -> None:
    from matplotlib.lines import Line2D

    there = {int(value) for view in picture.views if view.label is not None for value in np.unique(view.label)} - {0}
    looks = [(value, *_look(value)) for value in sorted(there)[:_LEGEND]]
    handles = [
        Line2D([], [], color=colour, ls=style, lw=2, label=picture.labels.get(value, f"{value}")[:_NAME])
        for value, colour, style in looks
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="lower left",
            ncols=len(handles),
            frameon=False,
            labelcolor="white",
            fontsize=7,
            handlelength=1.5,
            columnspacing=1.2,
        )


def _draw_sheet(tiles: Mapping[int, tuple[str, View, Window]]) -> Figure:
    rows, columns = PER_SHEET
    rows = min(rows, max(tiles) // columns + 1)
    figure = _new_figure(columns * 1.5, rows * 1.65)
    for place, (name, view, window) in tiles.items():
        row, column = divmod(place, columns)
        axes = figure.add_axes((column / columns + 0.004, 1 - (row + 0.99) / rows, 1 / columns - 0.008, 0.85 / rows))
        _panel(axes, view, window)
        axes.set_aspect("equal")
        axes.set_title(name if len(name) < 26 else f"…{name[-24:]}", color=_GREY, size=6, pad=2)
    return figure


def _as_it_is() -> AbstractContextManager[None]:
    """Names are shown as they are, also with $."""
    import matplotlib

    return matplotlib.rc_context({"text.parse_math": False})


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=_BLACK)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    make_folder(path.parent)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor=_BLACK, metadata={"Software": None})
