"""How figures look: print sizes, colours that the colour-blind can tell apart (Okabe and Ito), embedded fonts.

Whatever differs in colour differs in marker, line or hatch, too, so that figures survive a black-and-white printer.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hpcseg.files import make_folder, replacing
from hpcseg.study.tables import Axis
from hpcseg.training.strategy import strategies

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE, TALLEST = 3.3, 6.9, 9.0  # inches: widths of a text column and of a page, height of a page
COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^v<>p"
LINES: tuple[Any, ...] = ("-", (0, (5, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "/////", ".....", "xxxxx", "-----", "|||||", "+++++", "ooo")
YELLOW, SKY, GREY = "#F0E442", "#56B4E9", "#555555"
SMALL = 6  # points: the smallest text of all
DPI = 300  # what printers and journals ask for
FORMATS: Any = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # without what would differ otherwise
_EDGE = 0.04  # inches between what stands below the axes

SETTINGS: Any = {
    "text.parse_math": False,  # titles are what they are, also with $
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.4,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType, embedded
}


@dataclass(frozen=True)
class Look:
    """What tells the values of one axis apart."""

    colour: str
    marker: str
    line: Any
    hatch: str


def looks(values: Sequence[Axis]) -> dict[Axis, Look]:
    """A look for each value; a strategy has the same one in every figure, and other values those that are left."""
    known: dict[Axis, int] = {strategy: n for n, strategy in enumerate(strategies())}
    ranks = {value: known[value] for value in values if value in known}
    left = (rank for rank in itertools.count() if rank not in ranks.values())
    ranks |= {value: next(left) for value in values if value not in known}
    return {value: _look(rank, rank // len(COLOURS)) for value, rank in ranks.items()}


def _look(rank: int, turn: int) -> Look:
    """Where colours begin again, they meet other markers and hatches than before."""
    kinds: tuple[Sequence[Any], ...] = (COLOURS, MARKERS, LINES, HATCHES)
    return Look(*(kind[(rank + shift) % len(kind)] for kind, shift in zip(kinds, (0, turn, 0, turn), strict=True)))


def pale(colour: str) -> tuple[float, float, float]:
    """The colour as a filling: two thirds of the way to white, so that a black line shows on black's, too."""
    from matplotlib.colors import to_rgb

    red, green, blue = ((2 + part) / 3 for part in to_rgb(colour))
    return red, green, blue


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of this size in inches, on a canvas without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def side_by_side(panels: int) -> tuple[int, float]:
    """How many of these panels stand in a row, and how wide each is, in inches."""
    across = {1: 1, 2: 2, 4: 2}.get(panels, 3)
    return across, (COLUMN if across == 1 else PAGE) / across


def new_mosaic(panels: int, height: float, note: str) -> tuple[Figure, list[tuple[float, float]]]:
    """An empty figure without a layout: panels for `tile` of this height in inches, and below them room for the note.

    Returns:
        The figure, and of each panel its left and its top, in inches.
    """
    across, each = side_by_side(panels)
    width = COLUMN if across == 1 else PAGE
    below = len(wrapped(note, width, SMALL).splitlines()) * SMALL / 72 * 1.3 + 2 * _EDGE
    figure = new_figure(width, -(-panels // across) * height + below, layout=None)
    return figure, [(panel % across * each, panel // across * height) for panel in range(panels)]


def tile(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes without ticks or frame, placed in inches from the figure's upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    place = (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    return bare(figure.add_axes(place))


def arrange(figure: Figure, **options: Any) -> None:
    """Set options of the figure's constrained layout: rect, w_pad, h_pad, wspace, hspace."""
    engine: Any = figure.get_layout_engine()
    if engine is not None:
        engine.set(**options)


def wrapped(text: str, inches: float, points: float = 7) -> str:
    """The text in lines of at most about `inches`, which a font of this size fills with 8 points per 13 letters."""
    return textwrap.fill(text, max(4, int(inches * 72 / points * 1.72)), break_long_words=False)


def set_title(axes: Axes, text: str, inches: float) -> None:
    """A title above the axes, on the left, in lines that fit `inches`."""
    axes.set_title(wrapped(text, inches, 7.5), loc="left")


def bare(axes: Axes) -> Axes:
    """The axes without ticks or frame, for an image."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def set_ticks(axes: Axes, places: Sequence[float], labels: Sequence[str], inches: float) -> None:
    """Ticks of the x axis; labels too long for their share of `inches` are wrapped, with too long a word slanted."""
    share = inches / max(len(labels), 1)
    if max((len(word) for text in labels for word in text.split()), default=0) * 0.058 > share:
        axes.set_xticks(
            places, [wrapped(text, 1.1) for text in labels], rotation=35, ha="right", rotation_mode="anchor"
        )
    else:
        axes.set_xticks(places, [wrapped(text, share) for text in labels])


def set_scale(axes: Axes, *, log: bool = False) -> None:
    """A y axis with few round numbers and lines at them."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    axes.grid(axis="y")
    if not log:
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def lettered(panel: int, panels: int, text: str) -> str:
    """The title of a panel, with its letter where there are several."""
    return f"({chr(ord('a') + panel)}) {text}" if panels > 1 else text


def finish(figure: Figure, handles: Sequence[Artist], note: str) -> None:
    """Put a legend of `handles` and a small note below everything else, as wide as fits, and make room for both."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    width, height = figure.get_size_inches()
    bottom = _EDGE / height
    text = figure.text(
        0.012, bottom, wrapped(note, width, SMALL), va="bottom", fontsize=SMALL, color=GREY, linespacing=1.15
    )
    if note:
        bottom += text.get_window_extent(renderer).height / figure.bbox.height + _EDGE / height
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=list(handles),
            loc="lower center",
            bbox_to_anchor=(0.5, bottom),
            ncols=columns,
            borderaxespad=0.0,
            borderpad=0.2,
            columnspacing=1.4,
            handletextpad=0.5,
        )
        extent = legend.get_window_extent(renderer)
        if extent.width <= figure.bbox.width or columns == 1:
            bottom += extent.height / figure.bbox.height
            break
        legend.remove()
    bottom += _EDGE / height
    arrange(figure, rect=(0.0, bottom, 1.0, 1.0 - bottom))


def save(figure: Figure, folder: Path, name: str, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Write NAME.png and NAME.pdf into `folder`, each atomically and the same to the byte for the same figure."""
    _fix_layout(figure)
    paths = [folder / f"{name}.{ending}" for ending in formats]
    make_folder(folder)
    for path, ending in zip(paths, formats, strict=True):
        with replacing(path) as temporary:
            figure.savefig(temporary, format=ending, dpi=DPI, metadata=FORMATS[ending])
    return paths


def _fix_layout(figure: Figure) -> None:
    """Lay the figure out for good; the solver's rounding errors differ from call to call, so places are rounded."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(side), 6) for side in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
