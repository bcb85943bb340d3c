"""How figures look: print sizes, colours that the colour-blind can tell apart (Okabe and Ito), embedded fonts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcseg.files import replacing
from hpcseg.results.axes import STRATEGIES
from hpcseg.results.collect import Axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9  # inches: widths of a text column and of a page
COLOURS = ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
YELLOW, SKY = "#F0E442", "#56B4E9"
DPI = 200

SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7,
    "axes.titlesize": 8,
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
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType, embedded
}


def colours(values: Sequence[Axis]) -> dict[Axis, str]:
    """A colour for each value; a strategy has the same one in every figure."""
    others = [value for value in values if value not in STRATEGIES]
    start = len(STRATEGIES) if len(others) < len(values) else 0
    fixed: dict[Axis, str] = dict(zip(STRATEGIES, COLOURS, strict=False))
    return fixed | {value: COLOURS[(start + n) % len(COLOURS)] for n, value in enumerate(others)}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, on a canvas without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf into `folder`, each atomically and the same to the byte for the same figure."""
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path, metadata in zip(paths, ({"Software": None}, {"CreationDate": None}), strict=True):
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    return paths
