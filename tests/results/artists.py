"""What a drawn figure says and shows, read from its artists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from hpcseg.results.collection import Collection
from hpcseg.results.figures.figures import Drawing, draw
from hpcseg.results.figures.style import SETTINGS, SMALL
from hpcseg.study.tables import FigureDefinition


def drawn(collection: Collection, **keys: object) -> Figure:
    """One figure, laid out."""
    definition = FigureDefinition.model_validate({"name": "figure", **keys})
    with matplotlib.rc_context(SETTINGS):
        figure = draw(definition, collection)
        assert isinstance(figure, Figure), figure
        figure.canvas.draw()
    return figure


def why_not(collection: Collection, **keys: object) -> str:
    """Why a figure is not drawn."""
    reason = draw(FigureDefinition.model_validate({"name": "figure", **keys}), collection)
    assert isinstance(reason, str)
    return reason


def contents(drawings: Sequence[Drawing]) -> list[bytes]:
    """What the files of figures hold."""
    return [path.read_bytes() for drawing in drawings for path in drawing.files]


def texts(figure: Figure) -> list[tuple[str, Bbox, float]]:
    """Every text that is seen: what it says, where, and in how many points."""
    shown = [text for text in figure.findobj(Text) if _seen(text, figure)]
    return [(text.get_text(), text.get_window_extent(), float(text.get_fontsize())) for text in shown]


def problems(figure: Figure) -> list[str]:
    """Texts that are cut, that lie over each other, or that are too small to read in print."""
    found, places = [], texts(figure)
    for said, place, points in places:
        if points < SMALL:
            found.append(f"{said!r} has {points} points")
        if place.x0 < -1 or place.y0 < -1 or place.x1 > figure.bbox.width + 1 or place.y1 > figure.bbox.height + 1:
            found.append(f"{said!r} is cut")
    for (one, place, _), (other, another, _) in combinations(places, 2):
        both = Bbox.intersection(place, another)
        if both is not None and both.width > 1 and both.height > 1:
            found.append(f"{one!r} lies over {other!r}")
    return found


def _seen(text: Text, figure: Figure) -> bool:
    """Whether a text is drawn; ticks beyond the axes' range exist, but are not."""
    if not text.get_text().strip() or not text.get_visible():
        return False
    axes = [one for one in figure.axes if text in one.findobj(Text)]
    if not axes:
        return True
    if not axes[0].get_visible():
        return False
    ticks = [label for axis in (axes[0].xaxis, axes[0].yaxis) for label in axis.get_ticklabels(which="both")]
    drawn = [tick.label1 for axis in (axes[0].xaxis, axes[0].yaxis) for tick in axis._update_ticks()]
    return text not in ticks or text in drawn
