"""Mean teacher: a network learns from the average of its own weights what unlabelled volumes show.

The teacher is the average (Tarvainen and Valpola 2017); its hard pseudo-labels are those of the strong baselines of
semi-supervised segmentation. Shapes: B patches of this rank, D/H/W the axes z, y, x of a target.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from hpcseg.config import RunConfig
from hpcseg.sections import Positive, Section, key
from hpcseg.training.strategy import AUTOENCODERS_ONLY, Needs, Strategy
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask, unlabelled_batches

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.patches.minibatch import Batch

_LITERATURE = "ours: Tarvainen and Valpola 2017, and semi-supervised segmentation since"
Steps = Annotated[int, Field(ge=0)]


class TeacherConfig(Section):
    """Mean teacher: pseudo-labels of the weights' average, while it trains (room `training`)."""

    unlabelled: Annotated[float, Field(gt=0, lt=1)] = key(
        0.5,
        "share of a minibatch's patches that come from unlabelled volumes; rounded down, at least one patch",
        unit="share",
        source=_LITERATURE,
    )
    decay: Annotated[float, Field(gt=0, lt=1)] = key(
        0.99,
        "what a step leaves of the teacher's old weights; in step t, from 0, at most (1 + t) / (10 + t)",
        unit="share",
        source=_LITERATURE,
    )
    weight: Positive = key(
        0.5, "of the loss on pseudo-labels, at its height", unit="factor", source="ours: tried on hippocampi"
    )
    supervised_steps: Steps = key(
        150, "steps before pseudo-labels count", unit="steps", source="ours: until then they are background alone"
    )
    ramp_steps: Steps = key(
        300, "steps in which their weight then rises to its height, evenly", unit="steps", source=_LITERATURE
    )
    with_validation: bool = key(
        False, "the validation images are seen, too", source="ours: they choose the model that is kept"
    )

    def patches(self, batch: int) -> int:
        """Unlabelled patches among those of a minibatch."""
        return max(1, int(self.unlabelled * batch + 1e-9))

    def weight_at(self, step: int) -> float:
        """Weight of the loss on pseudo-labels in a step, from 0.

        >>> section = TeacherConfig(weight=0.5, supervised_steps=2, ramp_steps=4)
        >>> [section.weight_at(step) for step in range(8)]
        [0.0, 0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
        """
        done = step - self.supervised_steps
        return self.weight * min(max((done + 1) / max(self.ramp_steps, 1), 0.0), 1.0) if done >= 0 else 0.0


class Teacher(Strategy[TeacherConfig]):
    """A network of any kind that learns from labels, and from what its average says of unlabelled volumes."""

    name, label, order = "teacher", "Mean teacher", 3
    section_type = TeacherConfig
    free_keys = frozenset({"decay", "weight", "supervised_steps", "ramp_steps", "with_validation"})

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where a minibatch cannot be shared."""
        if config.training.batch < 2:
            raise ValueError(f"training.batch = {config.training.batch}: strategy 'teacher' shares it; give 2 or more")

    def needs(self, config: RunConfig) -> Needs:
        """The volumes that are seen without labels."""
        return Needs(unlabelled=True, held_out=self.section(config).with_validation)

    def unused(self, config: RunConfig) -> frozenset[str]:
        """The autoencoders' own keys, and those that this section has for both."""
        return AUTOENCODERS_ONLY | {"training.average", "teacher.with_validation"}

    def batches(self, config: RunConfig) -> dict[str, int]:
        """Labelled and unlabelled patches; together they are a minibatch of the configured size."""
        unlabelled = self.section(config).patches(config.training.batch)
        return {"training.batch": config.training.batch - unlabelled, "teacher.unlabelled": unlabelled}

    def task(self, inputs: Inputs) -> TeacherTask:
        """A fresh network and its average."""
        return TeacherTask(inputs, self.section(inputs.config))


class TeacherTask(SegmentationTask):
    """L = L(labels) + w L(pseudo-labels): one pass of the network over the patches of both kinds.

    Both views of an unlabelled patch are moved, turned and deformed alike, and the network's is changed in intensity as
    well. So each pseudo-label belongs to the very voxel that it was made for: labels of an untouched patch would have
    to be interpolated, and would be missing wherever the transform shows what lies outside of it.
    """

    def __init__(self, inputs: Inputs, section: TeacherConfig) -> None:
        import torch

        from hpcseg.training.model import geometry_of

        augmentation, batch = inputs.config.augmentation, inputs.config.training.batch
        count = section.patches(batch)
        super().__init__(inputs, batch=batch - count, average=section.decay)
        self.section = section
        levels, dtype = range(geometry_of(inputs.config).levels), self.precision.input_dtype
        views = [augmentation.model_copy(update={"intensity_share": 0.0})]
        views += [augmentation] if augmentation.changes_intensity else []  # else both views are the same
        self._views = [unlabelled_batches(inputs, levels, count, view, dtype) for view in views]
        self._weight = torch.zeros((), device=self.device)  # where the step reads it, also a recorded step

    def batches(self, first_step: int) -> Generator[Any]:
        """Labelled batches with both views of unlabelled ones, from the global step `first_step` on."""
        from hpcseg.patches.prefetch import prefetched

        steps = range(first_step, self.epochs * self.steps)
        kinds = self._training, *self._views
        with ExitStack() as stack:
            read = [stack.enter_context(closing(prefetched(one, steps, device=self.device))) for one in kinds]
            yield from zip(*read, strict=True)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum, and the losses on labels and on pseudo-labels."""
        import torch

        labelled, plain, changed = cast("tuple[Batch, Batch, Batch]", (*batch, batch[-1])[:3])  # one view, if alike
        assert self.average is not None and labelled.label_BDHW is not None
        with torch.no_grad():
            pseudo_BDHW = self.logits(plain.images, self.average.network).argmax(dim=1)
        self.network.train()
        both = [torch.cat(pair) for pair in zip(labelled.images, changed.images, strict=True)]
        logits_BCDHW, known = self.logits(both), len(labelled.label_BDHW)
        segmentation = self.loss_of(logits_BCDHW[:known], labelled.label_BDHW)
        unlabelled = self.loss_of(logits_BCDHW[known:], pseudo_BDHW)
        return segmentation + self._weight * unlabelled, {"segmentation": segmentation, "unlabelled": unlabelled}

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of the weights, then of the teacher's."""
        assert self.average is not None
        self._weight.fill_(self.section.weight_at(self.average.steps))
        return super().train_step(batch)
