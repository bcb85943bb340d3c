"""Masked pretraining: the whole network first learns to fill in masked blocks of all volumes, then to segment.

The fair rival of the autoencoders at equal compute: they prepare the encoders of an F-Net alone, this prepares every
convolution of either network (He et al. 2022; of U-Nets for segmentation Chen et al. 2023, Wald et al. 2025).

Shapes: B patches of this rank, N blocks along an axis, D edge of a level's box, P edge of a target.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from hpcseg.config import RunConfig
from hpcseg.sections import Count, Section, key
from hpcseg.training.pretrained import CLASSIFIER, pretrained_weights
from hpcseg.training.strategy import Needs, Strategy
from hpcseg.training.task import Inputs, Task
from hpcseg.training.tasks import NetworkTask, SegmentationTask, fresh_network, rate_groups, unlabelled_batches

if TYPE_CHECKING:
    from torch import Tensor


class MaskedConfig(Section):
    """Masked pretraining of the whole network, and its fine-tuning (room `training`)."""

    block: Count = key(
        16,
        "edge of a masked block; a multiple of the coarsest level's voxel, so that every voxel is masked whole",
        unit="voxels",
        source="ours: as in masked autoencoders of volumes",
    )
    share: Annotated[float, Field(gt=0, lt=1)] = key(
        0.6, "of the blocks of a patch, which are masked", unit="share", source="ours: He et al. 2022 have 0.75, in 2D"
    )
    fine_tune_share: Annotated[float, Field(gt=0, le=1)] = key(
        0.3,
        "of the learning rate, at which all but the fresh last convolution is tuned",
        unit="share",
        source="ours: about S-TL's in the paper, 8e-5 of 3e-4",
    )
    with_validation: bool = key(
        False, "the validation images are seen, too", source="ours: they choose the model that is kept"
    )


class Masked(Strategy[MaskedConfig]):
    """A network of any kind that has filled in masked blocks of all volumes before."""

    name, label, order = "masked", "Masked pretraining", 4
    section_type = MaskedConfig
    free_keys = frozenset({"block", "share", "fine_tune_share", "with_validation"})
    pretraining_keys = frozenset({"block", "share"})

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where a coarse voxel would lie in several blocks."""
        block, coarsest = self.section(config).block, 1 << (config.network.levels - 1)
        if block % coarsest:
            raise ValueError(
                f"masked.block = {block} is no multiple of {coarsest}, the edge of a voxel at the coarsest of "
                f"{config.network.levels} levels"
            )

    def needs(self, config: RunConfig) -> Needs:
        """A pretraining of its own."""
        return Needs(network=True, held_out=self.section(config).with_validation)

    def unused(self, config: RunConfig) -> frozenset[str]:
        """What makes an autoencoder of a network; length, rate, loss and places are read."""
        own = {f"autoencoder.{name}" for name in ("winners", "lifetime", "decoder")}
        return frozenset(own | {"masked.with_validation"})

    def pretraining(self, inputs: Inputs) -> Task:
        """A fresh network with one channel."""
        return MaskedTask(inputs, self.section(inputs.config))

    def task(self, inputs: Inputs) -> SegmentationTask:
        """The pretrained network with a fresh last convolution, and the rates of its weights."""
        network, rate = fresh_network(inputs), inputs.config.training.learning_rate
        (path,) = inputs.pretrained
        weights = pretrained_weights(path, strategy=self.name)
        learned = {name: w for name, w in weights.items() if not name.startswith(CLASSIFIER)}
        network.load_state_dict(network.state_dict() | learned)
        head = rate_groups(inputs, network.classifier.named_parameters(prefix=CLASSIFIER[:-1]))
        rest = [weight for name, weight in network.named_parameters() if not name.startswith(CLASSIFIER)]
        tuned = {"params": rest, "lr": rate * self.section(inputs.config).fine_tune_share}
        return SegmentationTask(inputs, network, [*head, tuned])


class MaskedTask(NetworkTask):
    """The intensity of masked voxels of the target, from what is left of all levels.

    A block is masked at the same place on every level, or a coarse level would show what a finer one hides. Masked
    voxels are 0, the mean of normalised intensities.
    """

    phase = "pretraining"

    def __init__(self, inputs: Inputs, section: MaskedConfig) -> None:
        from hpcseg.patches.blocks import blocks_along
        from hpcseg.training.model import geometry_of

        config, network = inputs.config.autoencoder, fresh_network(replace(inputs, classes=0))  # one channel
        groups = [{"params": list(network.parameters()), "lr": config.learning_rate}]
        super().__init__(inputs, network, module="network", loss="reconstruction", groups=groups, length=config)
        self.section, self._geometry = section, geometry_of(inputs.config)
        self._training = unlabelled_batches(inputs, range(self._geometry.levels), config.batch)
        places = blocks_along(self._geometry, section.block)
        self._count = 1 + max(int(own_D.max()) for own_D in places)
        self._places = [own_D.to(self.device) for own_D in places]

    def batches(self, first_step: int) -> Generator[Any]:
        """Batches with the masked blocks (B, N, N, N) of each patch, from the global step `first_step` on."""
        with closing(super().batches(first_step)) as batches:
            for step, batch in enumerate(batches, start=first_step):
                yield batch, self._drawn(step)

    def _drawn(self, step: int) -> Tensor:
        """Which blocks are masked: of the patch's own counters, as all that is drawn of it."""
        import numpy as np
        import torch

        from hpcseg.patches.sampling import Use

        draw, shape = self._training.draw, (self._count,) * 3
        generators = [draw.generator(step, slot, Use.BLOCKS) for slot in range(draw.batch)[draw.part]]
        masked_BNNN = torch.from_numpy(np.stack([one.random(shape) < self.section.share for one in generators]))
        if self.device.type == "cuda":
            masked_BNNN = masked_BNNN.pin_memory().to(self.device, non_blocking=True)
        return masked_BNNN

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of the masked voxels of all targets."""
        from hpcseg.networks.losses import masked_error

        patches, masked_BNNN = batch
        self.network.train()
        masks = [mask_of(masked_BNNN, places_D) for places_D in self._places]
        shown = [image.masked_fill(mask, 0) for image, mask in zip(patches.images, masks, strict=True)]
        with self.precision.autocast():
            filled_B1PPP = self.network(shown)
        begin = -self._geometry.origins[0]
        target = (..., *(slice(begin, begin + self._geometry.patch),) * 3)
        image_B1PPP, mask_B1PPP = patches.images[0][target], masks[0][target]
        loss = masked_error(self.config.autoencoder, filled_B1PPP, image_B1PPP, mask_B1PPP, self.ranks.reduce)
        return loss, {"reconstruction": loss}


def mask_of(masked_BNNN: Tensor, places_D: Tensor) -> Tensor:
    """The voxels of a level's box that lie in masked blocks, (B, 1, D, D, D) bool."""
    for axis in (1, 2, 3):
        masked_BNNN = masked_BNNN.index_select(axis, places_D)
    return masked_BNNN[:, None]
