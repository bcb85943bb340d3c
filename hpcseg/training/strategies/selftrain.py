"""Self-training: a network learns from true labels and from what a network trained before makes of the other volumes.

Lee 2013 (pseudo-labels); with noise on what the second network sees, and several rounds, Xie et al. 2020.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from hpcseg import registry
from hpcseg.config import RunConfig
from hpcseg.sections import Count, Fraction, OneOf, Section, key
from hpcseg.training.strategy import Needs, Strategy, part_of_batch, require_two_patches
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask, fresh_network

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.patches.minibatch import Batch


class SelftrainConfig(Section):
    """Self-training: pseudo-labels of a run that was trained before (room `training`)."""

    teacher: Annotated[str, OneOf(registry.names)] = key(
        registry.REFERENCE, "the strategy that trains the first network", source="ours: Lee 2013"
    )
    teachers: Count = key(
        1,
        "how many first networks label together, by the average of their probabilities: one of each of so many seeds, "
        "from the run's own upwards",
        unit="networks",
        source="ours: each costs a training; an average is more often right than its members",
    )
    rounds: Count = key(
        1,
        "how often volumes are labelled, by the first network and then by the one that learned from its labels",
        unit="rounds",
        source="ours: each costs a training; Xie et al. 2020 have 3",
    )
    start: Literal["fresh", "teacher"] = key(
        "fresh",
        "which weights training begins with: fresh ones, or training.start's; or those of the (first) network that "
        "labelled",
        source="ours: Lee 2013",
    )
    pseudo_labelled: Annotated[float, Field(gt=0, lt=1)] = key(
        0.5,
        "share of a minibatch's patches that have pseudo-labels; rounded down, at least one patch",
        unit="share",
        source="ours: few true labels are not to drown",
    )
    confidence: Fraction = key(
        0.0,
        "voxels whose class is less probable are left out of the loss; at most ½ of one foreground class: none are",
        unit="probability",
        source="ours: off, until it is shown to help",
    )

    def patches(self, batch: int) -> int:
        """Patches with pseudo-labels among those of a minibatch."""
        return part_of_batch(batch, self.pseudo_labelled)


class Selftrain(Strategy[SelftrainConfig]):
    """A network of any kind that learns from true labels and from those of a network before it."""

    name, label, order = "selftrain", "Self-training", 5
    section_type = SelftrainConfig
    free_keys = frozenset({"teacher", "teachers", "rounds", "start"})

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where a minibatch cannot be shared, or the teacher could not be trained."""
        section = self.section(config)
        require_two_patches(config)
        if section.teacher == self.name:
            raise ValueError("selftrain.teacher = 'selftrain': say how often with selftrain.rounds")
        teacher = registry.described(section.teacher)
        if config.network.kind not in teacher.networks:
            raise ValueError(f"selftrain.teacher = '{section.teacher}' does not train '{config.network.kind}'")
        teacher.check(config.model_copy(update={"strategy": section.teacher}))

    def needs(self, config: RunConfig) -> Needs:
        """Labels for the volumes that have none; never for those that choose the model."""
        return Needs(pseudo_labels=True, held_out=False)

    def parents(self, config: RunConfig) -> tuple[RunConfig, ...]:
        """The teachers' runs, which are those of other seeds of a sweep that has them, or that of the round before."""
        section = self.section(config)
        if section.rounds > 1:
            earlier = section.model_copy(update={"rounds": section.rounds - 1})
            return (config.model_copy(update={self.name: earlier}),)
        seeds = range(config.seed, config.seed + section.teachers)
        return tuple(config.model_copy(update={"strategy": section.teacher, "seed": seed}) for seed in seeds)

    def confidence(self, config: RunConfig) -> float:
        """As its key says."""
        return self.section(config).confidence

    def unused(self, config: RunConfig) -> frozenset[str]:
        """The autoencoders' keys, which the teacher's run may read; the teachers enter as runs of their own."""
        return frozenset({"autoencoder", "selftrain.teacher", "selftrain.teachers"})

    def batches(self, config: RunConfig) -> dict[str, int]:
        """Patches with true labels and with pseudo-labels; together they are a minibatch of the configured size."""
        pseudo = self.section(config).patches(config.training.batch)
        return {"training.batch": config.training.batch - pseudo, "selftrain.pseudo_labelled": pseudo}

    def task(self, inputs: Inputs) -> SelftrainTask:
        """A fresh network, or the teacher's."""
        return SelftrainTask(inputs, self.section(inputs.config))


class SelftrainTask(SegmentationTask):
    """One loss over patches with true labels and with pseudo-labels, which differ in nothing else."""

    def __init__(self, inputs: Inputs, section: SelftrainConfig) -> None:
        from hpcseg.patches.sampling import Stream
        from hpcseg.training.model import TrainedModel

        inputs = replace(inputs, start={}) if section.start == "teacher" else inputs
        network, batch = fresh_network(inputs), inputs.config.training.batch
        if section.start == "teacher":
            network.load_state_dict(TrainedModel.load(inputs.pretrained[0]).weights)
        count = section.patches(batch)
        super().__init__(inputs, network, batch=batch - count)
        self.partly_labelled |= section.confidence > 0
        self._pseudo = self._batches(inputs.pseudo_labelled, Stream.PSEUDO_LABELS, count)

    def batches(self, first_step: int) -> Generator[Any]:
        """Pairs of batches with true labels and with pseudo-labels, from the global step `first_step` on."""
        return self.together(first_step, self._training, self._pseudo)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The segmentation's loss over both."""
        import torch

        pair = cast("tuple[Batch, Batch]", batch)
        self.network.train()
        images = [torch.cat(both) for both in zip(*(part.images for part in pair), strict=True)]
        label_BDHW = torch.cat([part.label_BDHW for part in pair if part.label_BDHW is not None])
        loss = self.loss_of(self.logits(images), label_BDHW)
        return loss, {"segmentation": loss}
