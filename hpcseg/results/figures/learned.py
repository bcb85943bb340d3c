"""What the autoencoders have learned: filters of encoder and decoder as central slices (paper, figure 2).

Shapes: K filters, n edge of a filter (z, y, x).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.paths import MODEL_FILE
from hpcseg.results.collection import Collection, Run
from hpcseg.results.figures.legends import runs_of
from hpcseg.results.figures.style import SMALL, finish, lettered, new_mosaic, side_by_side, tile
from hpcseg.spec import TrainSpec
from hpcseg.study.tables import FigureDefinition
from hpcseg.training.strategy import strategy_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Weights = Mapping[str, Any]  # names to tensors

SHOWN = {1: 8, 2: 8, 3: 6}  # filters of a block, by panels side by side
SATURATED = 1.0  # per cent of a block's weights that are black or white
_GAP = 0.12  # between filters, in filters
_LEFT, _RIGHT, _TITLE = 0.36, 0.38, 0.24  # inches for the blocks' names, their scales, and the panel's title


@dataclass(frozen=True)
class Block:
    """Filters of one block of one level: slices (K, n, n) through their middles, and the weight that is drawn white."""

    name: str
    slices_Knn: NDArray[np.float32]
    white: float


@dataclass(frozen=True)
class Learned:
    """Weights of each level's network, and of which run they are."""

    what: str
    run: Run
    spec: TrainSpec
    levels: Sequence[Weights]

    @property
    def whose(self) -> str:
        """What they are, with what tells the run from others."""
        config = self.run.config
        labelled, fold, seed = config.get("labelled", "?"), config.get("fold", "?"), config.get("seed", 0)
        return f"{self.what} of {self.run.id} (n = {labelled}, fold {fold}, seed {seed})"


def draw_filters(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """A panel per level: the strongest filters of CBR1 to CBR3 and of the decoder, or why there are none.

    They are of the autoencoders from which the first S-TL run with finished ones started; in a sweep without such a
    run, of the encoders of the first trained F-Net. Greys are symmetric about 0, with a scale for each block
    of a level. A filter of CBR2, CBR3 has one cube per input map: the one of largest norm is shown.
    """
    try:
        found = find_autoencoders(definition, collection) or _find_encoders(definition, collection)
    except BadInput as error:
        return str(error)
    if found is None:
        return "no run has left weights of autoencoders or of an F-Net yet"
    shown = SHOWN[side_by_side(len(found.levels))[0]]
    panels = [_blocks(weights, shown) for weights in found.levels]
    sizes = ", ".join(f"{block.name} {block.slices_Knn.shape[-1]}³" for block in panels[0])
    note = f"{found.whose}: central slices of the filters of largest norm ({sizes} weights)."
    note += " Middle grey is 0; black and white are minus and plus the number on the right."
    return _draw(panels, shown, note)


def _draw(panels: Sequence[Sequence[Block]], shown: int, note: str) -> Figure:
    """A panel per level; in it a row per block, and filters in squares of edge 1 with gaps."""
    width = side_by_side(len(panels))[1] - _LEFT - _RIGHT
    rows, step = max(map(len, panels)), 1 + _GAP
    height = rows * width / shown
    figure, corners = new_mosaic(len(panels), height + _TITLE, note)
    for level, (blocks, (left, top)) in enumerate(zip(panels, corners, strict=True)):
        axes = tile(figure, left + _LEFT, top + _TITLE, width, height)
        for row, block in enumerate(blocks):
            for place, slice_nn in enumerate(block.slices_Knn):
                extent = (place * step, place * step + 1, row * step + 1, row * step)
                limits: Any = {"vmin": -block.white, "vmax": block.white}
                axes.imshow(slice_nn, cmap="gray", extent=extent, interpolation="nearest", **limits)
            end = len(block.slices_Knn) * step
            axes.text(end, row * step + 0.5, f"±{block.white:.2g}", va="center", fontsize=SMALL)
        axes.set_yticks([row * step + 0.5 for row in range(len(blocks))], [block.name for block in blocks])
        axes.tick_params(length=0, pad=2)
        axes.set(xlim=(0, shown * step), ylim=(rows * step, 0), aspect="auto")
        axes.set_title(lettered(level, len(panels), f"Resolution {level}"), loc="left", pad=3)
    finish(figure, [], note)
    return figure


def find_autoencoders(definition: FigureDefinition, collection: Collection) -> Learned | None:
    """The autoencoders of the first S-TL run of the figure's grids of which all are trained.

    Raises:
        BadInput: the sweep has no such grid, or a file is damaged.
    """
    from hpcseg.training.pretrained import pretrained_weights

    for run, spec in _specifications(definition, collection):
        paths = [collection.root / path for path in spec.pretrained]
        levels = strategy_of(spec.config).needs(spec.config).autoencoders
        if levels and all(path.exists() for path in paths):
            weights = [pretrained_weights(path, level=level) for level, path in zip(levels, paths, strict=False)]
            return Learned("Autoencoders", run, spec, weights)
    return None


def _find_encoders(definition: FigureDefinition, collection: Collection) -> Learned | None:
    """The encoders of the first trained F-Net of the figure's grids."""
    from hpcseg.training.checkpoint import load_tensors

    for run, spec in _specifications(definition, collection):
        path = run.folder / MODEL_FILE
        if spec.config.network.kind == "fnet" and path.exists():
            weights = load_tensors(path)["weights"]
            levels: list[Weights] = []
            for level in range(spec.config.network.levels):
                prefix = f"encoders.{level}."
                own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
                levels.append({f"encoder.{name}": weight for name, weight in own.items()})
            return Learned("Encoders", run, spec, levels)
    return None


def _specifications(definition: FigureDefinition, collection: Collection) -> Iterator[tuple[Run, TrainSpec]]:
    """What the runs of the figure's grids had to do, as far as that is written."""
    for run in runs_of(definition, collection):
        spec = run.specification()
        if spec is not None:
            yield run, spec


def _blocks(weights: Weights, shown: int) -> list[Block]:
    """The blocks of one level, from the image to the reconstruction."""
    names = {f"CBR{n}": f"encoder.cbr{n}.conv.weight" for n in (1, 2, 3)}
    names |= {"Dec": "decoder.weight" if "decoder.weight" in weights else "decoder.cbr.conv.weight"}
    blocks = []
    for block, name in names.items():
        if name in weights:
            weight = weights[name].float().numpy()
            # A transposed convolution's weight lists its input maps first, of which each has one filter.
            blocks.append(_block(block, weight, shown))
    return blocks


def _block(name: str, weight_KJnnn: NDArray[np.float32], shown: int) -> Block:
    """The `shown` strongest filters, strongest first; of each the cube of largest norm."""
    norms_KJ = np.sqrt((weight_KJnnn.astype(np.float64) ** 2).sum(axis=(2, 3, 4)))
    best_K = norms_KJ.argmax(axis=1)
    order = np.argsort(-norms_KJ.max(axis=1), kind="stable")[:shown]
    cubes_Knnn = weight_KJnnn[order, best_K[order]]
    slices_Knn = cubes_Knnn[:, weight_KJnnn.shape[2] // 2]
    return Block(name, slices_Knn, float(np.percentile(np.abs(slices_Knn), 100 - SATURATED)) or 1.0)
