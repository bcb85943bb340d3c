"""What the autoencoders make of patches: input, winners and reconstruction of every level (paper, figure 3).

Shapes: B patches, K feature maps, N winners per map, D H W (z, y, x) edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.results.collection import Collection
from hpcseg.results.figures.learned import Weights, find_autoencoders
from hpcseg.results.figures.style import YELLOW, finish, lettered, new_mosaic, side_by_side, tile
from hpcseg.spec import TrainSpec
from hpcseg.study.tables import FigureDefinition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATCHES = {1: 4, 2: 4, 3: 3}  # of a level, by panels side by side
ROWS = ("Input", "Winners", "Rebuilt")
_LEFT, _TITLE, _GAP = 0.2, 0.24, 0.03  # inches: left of the patches, above them, between them


@dataclass(frozen=True)
class Reconstruction:
    """Middle slices (y, x) of the patches of one level; winners of all slices as (y, x, value over the largest)."""

    inputs_Byx: NDArray[np.float32]
    outputs_Byx: NDArray[np.float32]
    winners: tuple[NDArray[np.float32], ...]  # (W, 3) per patch
    error: float  # mean absolute error over whole patches, in normalised intensities


def draw_reconstructions(definition: FigureDefinition, collection: Collection) -> Figure | str:
    """A panel per level with input, winners and reconstruction of a few patches, or why there is none.

    The autoencoders are those of `hpcseg.results.figures.learned`. The patches lie around foreground voxels of the
    validation cases and are the same for all levels.
    """
    try:
        found = find_autoencoders(definition, collection)
        if found is None:
            return "no S-TL run has its autoencoders trained yet; others leave no decoders"
        patches = read_patches(found.spec, collection.root, PATCHES[side_by_side(len(found.levels))[0]])
    except BadInput as error:
        return str(error)
    panels = [reconstruct(found.spec, level, weights, patches[level]) for level, weights in enumerate(found.levels)]
    return _draw(panels, found.whose)


def read_patches(spec: TrainSpec, runs_root: Path, count: int) -> list[Any]:
    """Normalised patches of every level, tensors (B, 1, D, D, D), around foreground voxels of the validation cases.

    Raises:
        StoreError: the store is missing or damaged.
        BadInput: no validation case has a foreground voxel.
    """
    from hpcseg.patches.batches import SegmentationBatches
    from hpcseg.patches.sampling import Draw, Stream
    from hpcseg.patches.source import Source
    from hpcseg.training.model import geometry_of
    from hpcseg.volumes.normalise import normalisation, percentile_window
    from hpcseg.volumes.store import Store

    config = spec.config
    with ExitStack() as stack:
        store = stack.enter_context(Store(runs_root / spec.validation.store))
        labelled = stack.enter_context(Store(runs_root / spec.labelled.store))
        window = None
        if config.preprocessing.intensity == "percentile":
            cases = [labelled.case(name) for name in spec.labelled.cases]
            window = percentile_window(cases, config.preprocessing.percentiles)
        sources = []
        for case in map(store.case, spec.validation.cases):
            how = normalisation(config.preprocessing, case.histogram, window)
            sources.append(Source(case, how, store.pyramid_clip))
        draw = Draw(batch=count, seed=config.seed, stream=Stream.VALIDATION, lattice=config.patches.lattice)
        batches = SegmentationBatches(sources, geometry_of(config), draw, foreground_share=1.0)
        return list(batches.batch(0).images)


def reconstruct(spec: TrainSpec, level: int, weights: Weights, image_B1DHW: Any) -> Reconstruction:
    """What the autoencoder of a level makes of patches, batch norm in evaluation mode."""
    import torch

    from hpcseg.networks.autoencoder import WTAutoencoder
    from hpcseg.networks.winners import top_winners

    config = spec.config
    network = WTAutoencoder(
        config.network.kernel,
        config.network.maps_per_level[level],
        config.network.init_gain,
        config.autoencoder.model_copy(update={"lifetime": 0.0}),
    )
    network.load_state_dict(dict(weights))
    network.eval()
    with torch.no_grad():
        code_BKDHW = network.encoder(image_B1DHW)
        winners = top_winners(code_BKDHW, config.autoencoder.winners)
        depth, height, width = code_BKDHW.shape[2:]
        output_B1DHW = network.decoder(winners, (depth, height, width))
    margin = (image_B1DHW.shape[-1] - width) / 2  # from a voxel of the code to the middle of its stamp
    values_BW, index_BW = winners.values_BKN.flatten(1), winners.index_BKN.flatten(1)
    relative_BW = values_BW / values_BW.amax(dim=1, keepdim=True).clamp_min(1e-12)
    places = torch.stack((index_BW // width % height + margin, index_BW % width + margin, relative_BW), dim=2)
    middle = image_B1DHW.shape[2] // 2
    return Reconstruction(
        inputs_Byx=image_B1DHW[:, 0, middle].numpy(),
        outputs_Byx=output_B1DHW[:, 0, middle].numpy(),
        winners=tuple(found[found[:, 2] > 0].float().numpy() for found in places),
        error=float((output_B1DHW - image_B1DHW).abs().mean()),
    )


def _draw(panels: Sequence[Reconstruction], whose: str) -> Figure:
    patches = len(panels[0].winners)
    note = f"{whose}: middle slices of {patches} patches around foreground of validation cases"
    note += "; dots: winners of all slices, the larger the stronger"
    note += "; error: mean absolute difference of normalised intensities."
    edge = (side_by_side(len(panels))[1] - _LEFT) / patches
    figure, corners = new_mosaic(len(panels), len(ROWS) * edge + _TITLE, note)
    for level, (panel, corner) in enumerate(zip(panels, corners, strict=True)):
        left, top = corner[0] + _LEFT, corner[1] + _TITLE
        title = lettered(level, len(panels), f"Resolution {level} (error {panel.error:.2f})")
        for patch in range(patches):
            column = [tile(figure, left + patch * edge, top + row * edge, edge - _GAP, edge - _GAP) for row in range(3)]
            _draw_patch(column, panel, patch)
            if patch == 0:
                column[0].set_title(title, loc="left", pad=3)
                for axes, text in zip(column, ROWS, strict=True):
                    axes.set_ylabel(text, labelpad=2)
    finish(figure, [], note)
    return figure


def _draw_patch(column: Sequence[Axes], panel: Reconstruction, patch: int) -> None:
    """Input, winners and reconstruction below each other, in the greys of the input."""
    image_yx, output_yx = panel.inputs_Byx[patch], panel.outputs_Byx[patch]
    low, high = float(image_yx.min()), float(image_yx.max())
    dark = high + 0.6 * (high - low)  # so that winners stand out
    for axes, shown_yx, white in zip(column, (image_yx, image_yx, output_yx), (high, dark, high), strict=True):
        axes.imshow(shown_yx, cmap="gray", vmin=low, vmax=white, origin="lower", interpolation="nearest")
    y, x, value = panel.winners[patch].T
    column[1].scatter(x, y, s=5 * value, c=YELLOW, edgecolors="black", linewidths=0.2)
