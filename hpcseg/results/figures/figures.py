"""Figures of a sweep, at the size they are printed, as PNG and as PDF.

A figure that lacks what it would show is not drawn, and says why. matplotlib is used through Figure objects, and its
settings are afterwards as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcseg.results.collection import Collection
from hpcseg.results.figures.examples import draw_examples
from hpcseg.results.figures.learned import draw_filters
from hpcseg.results.figures.learning import draw_learning
from hpcseg.results.figures.reconstructions import draw_reconstructions
from hpcseg.results.figures.scores import draw_boxes, draw_curve
from hpcseg.results.figures.style import FORMATS, SETTINGS, save
from hpcseg.study.tables import FigureDefinition, FigureKind
from hpcseg.volumes.datasets import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        draw: draws one, or says why there is none.
        title: where the sweep file gives none.
        shows: what it shows, for those who do not see it.
    """

    draw: Callable[[FigureDefinition, Collection], Figure | str]
    title: str
    shows: str


_NUMBERS = "The tables give the numbers."
KINDS: Mapping[FigureKind, Kind] = {
    "box": Kind(
        draw_boxes,
        "Scores on the {set} set",
        f"Box plots of the {{set}} set's scores by {{x}} and {{hue}}, means as triangles. {_NUMBERS}",
    ),
    "curve": Kind(
        draw_curve,
        "Mean scores on the {set} set",
        f"Mean score of the {{set}} set against {{x}}, a line with intervals for each {{hue}}. {_NUMBERS}",
    ),
    "examples": Kind(
        draw_examples,
        "A case of the {set} set",
        "Slices of one case of the {set} set with contours of reference and segmentation by {x} and {hue}.",
    ),
    "filters": Kind(draw_filters, "Learned filters", "Slices through the filters that the networks have learned."),
    "learning": Kind(
        draw_learning,
        "Learning curves",
        "Loss and Dice of validation patches by epoch, a panel for each {x}, a colour for each {hue}.",
    ),
    "reconstructions": Kind(
        draw_reconstructions, "Reconstructions", "Patches beside what the autoencoders make of them."
    ),
}


@dataclass(frozen=True)
class Drawing:
    """A figure on disk, as PNG and PDF; without files it is not drawn, and `why_not` says why."""

    definition: FigureDefinition
    files: tuple[Path, ...] = ()
    why_not: str = ""

    @property
    def title(self) -> str:
        """As the sweep file has it, else that of its kind."""
        return self.definition.title or self._filled(KINDS[self.definition.kind].title)

    @property
    def shows(self) -> str:
        """What it shows, for those who do not see it."""
        return self._filled(KINDS[self.definition.kind].shows)

    @property
    def remark(self) -> str:
        """A line on why it is not drawn; "" where it is."""
        return f"figure {self.definition.name} is not drawn: {self.why_not}" if self.why_not else ""

    def _filled(self, text: str) -> str:
        axes = {"labelled": "number of labelled volumes"}
        x, hue = (axes.get(axis, axis) for axis in (self.definition.x, self.definition.hue))
        return text.format(set=self.definition.set, x=x, hue=hue)


def draw_figures(
    collection: Collection, folder: Path, progress: Progress | None = None, formats: Sequence[str] = tuple(FORMATS)
) -> list[Drawing]:
    """Draw every figure of the sweep into `folder`, in these formats; `progress` is called before each.

    Histories, specifications, weights and predicted masks are read from the folders of the runs.

    Raises:
        BadInput: a definition names an axis or grid that the sweep does not have.
    """
    import matplotlib

    drawings: list[Drawing] = []
    with matplotlib.rc_context(SETTINGS):
        for definition in collection.figures:
            if progress:
                progress(len(drawings), len(collection.figures), f"figure {definition.name}")
            figure = draw(definition, collection)
            if isinstance(figure, str):
                drawings.append(Drawing(definition, why_not=figure))
            else:
                drawings.append(Drawing(definition, tuple(save(figure, folder, definition.name, formats))))
    return drawings


def draw(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """One figure, to be drawn and saved with the settings `SETTINGS`, or why there is none."""
    return KINDS[definition.kind].draw(definition, collection)
