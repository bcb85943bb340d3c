"""Mean teacher: a network learns from the average of its own weights what unlabelled volumes show.

The teacher is the average (Tarvainen and Valpola 2017); its hard pseudo-labels are those of the strong baselines of
semi-supervised segmentation. Shapes: B patches of this rank, D/H/W the axes z, y, x of a target.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from hpcseg.config import RunConfig
from hpcseg.sections import Fraction, Positive, Section, key
from hpcseg.spec import IGNORED
from hpcseg.training.strategy import AUTOENCODERS_ONLY, Needs, Strategy, part_of_batch, require_two_patches
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask, unlabelled_batches

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.patches.minibatch import Batch
    from hpcseg.training.mixing import CopyPaste

_MIX = frozenset({"mix", "mix_size", "mix_pairs", "mix_levels"})
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
    confidence: Fraction = key(
        0.9,
        "voxels whose class is less probable are left out of the loss on pseudo-labels; at most ½ of one foreground "
        "class: none are",
        unit="probability",
        source="ours: with all of them the labelled volume grows step by step (docs/study.md)",
    )
    mix: Literal["none", "copypaste"] = key(
        "none",
        "copypaste: in pairs of a labelled and an unlabelled patch a cuboid of both changes places, with its labels",
        source="ours: Bai et al. 2023; off, for it lost where it was tried",
    )
    mix_size: Annotated[float, Field(gt=0, le=1)] = key(
        0.5,
        "edge of the cuboid in edges of the target; rounded down to whole coarsest voxels, at least one",
        unit="share",
        source="ours: Bai et al. have 2/3; patches of small organs are no larger than theirs",
    )
    mix_pairs: Annotated[float, Field(gt=0, le=1)] = key(
        0.5,
        "of the pairs, in which a cuboid changes places",
        unit="share",
        source="ours: batch statistics of mixed patches alone are not those of the clean ones that are segmented",
    )
    mix_levels: Literal["all", "finest"] = key(
        "all",
        "levels that are mixed; finest: those of context show the volume around the cuboid alone",
        source="ours: what all levels show is one mixed volume",
    )
    with_validation: bool = key(
        False, "the validation images are seen, too", source="ours: they choose the model that is kept"
    )

    def patches(self, batch: int) -> int:
        """Unlabelled patches among those of a minibatch."""
        return part_of_batch(batch, self.unlabelled)

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
    free_keys = frozenset({"decay", "weight", "supervised_steps", "ramp_steps", "confidence", "with_validation"}) | _MIX

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where a minibatch cannot be shared, or no cuboid fits a target."""
        require_two_patches(config)
        coarsest, patch = 1 << (config.network.levels - 1), config.patches.size
        if self.section(config).mix != "none" and config.network.kind == "fnet" and patch < 2 * coarsest - 1:
            raise ValueError(
                f"patches.size = {patch}: teacher.mix wants {2 * coarsest - 1} or more, so that the coarsest of "
                f"{config.network.levels} levels has a voxel within"
            )

    def needs(self, config: RunConfig) -> Needs:
        """The volumes that are seen without labels."""
        return Needs(unlabelled=True, held_out=self.section(config).with_validation)

    def unused(self, config: RunConfig) -> frozenset[str]:
        """The autoencoders' own keys, and those that this section has for both."""
        off = {f"teacher.{key}" for key in _MIX} if self.section(config).mix == "none" else set()
        return AUTOENCODERS_ONLY | {"training.average", "teacher.with_validation"} | off

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

    Where the teacher is not sure nothing is learnt: Dice gains by too many voxels rather than too few where both are as
    likely, the average follows, and the next labels are larger.

    With `mix` the network's views are mixed with the labelled patches, see `CopyPaste`, once pseudo-labels count; each
    loss is then of the voxels that have its labels, in whichever patch they are.
    """

    def __init__(self, inputs: Inputs, section: TeacherConfig) -> None:
        import torch

        from hpcseg.training.mixing import CopyPaste
        from hpcseg.training.model import geometry_of

        augmentation, batch = inputs.config.augmentation, inputs.config.training.batch
        count = section.patches(batch)
        super().__init__(inputs, batch=batch - count, average=section.decay)
        self.section = section
        self.partly_labelled |= section.confidence > 0
        levels, dtype = range(geometry_of(inputs.config).levels), self.precision.input_dtype
        views = [augmentation.model_copy(update={"intensity_share": 0.0})]
        views += [augmentation] if augmentation.changes_intensity else []  # else both views are the same
        self._views = [unlabelled_batches(inputs, levels, count, view, dtype) for view in views]
        self._mixing: CopyPaste | None = None
        if section.mix == "copypaste":
            draw, labelled = self._views[-1].draw, batch - count
            self._mixing = CopyPaste(section, geometry_of(inputs.config), draw, labelled, self.device)
            self.partly_labelled = True
        self._weight = torch.zeros((), device=self.device)  # where the step reads it, also a recorded step

    def batches(self, first_step: int) -> Generator[Any]:
        """Labelled batches with both views of unlabelled ones, and cuboids, from the global step `first_step` on."""
        with closing(self.together(first_step, self._training, *self._views)) as batches:
            for step, batch in enumerate(batches, start=first_step):
                yield *batch, *self._cuboids(step)

    def _cuboids(self, step: int) -> tuple[Tensor, ...]:
        if self._mixing is None:
            return ()
        return (self._mixing.drawn(step, wanted=self.section.weight_at(step) > 0),)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum, and the losses on labels and on pseudo-labels."""
        import torch

        count = 1 + len(self._views)
        labelled, plain, changed = cast("tuple[Batch, Batch, Batch]", (*batch[:count], batch[count - 1])[:3])
        assert self.average is not None and labelled.label_BDHW is not None
        with torch.no_grad():
            answer_BCDHW = self.logits(plain.images, self.average.network)
            sure_BDHW = answer_BCDHW.float().softmax(dim=1).amax(dim=1) >= self.section.confidence
            pseudo_BDHW = answer_BCDHW.argmax(dim=1).masked_fill_(~sure_BDHW, IGNORED)
        self.network.train()
        pairs, known = list(zip(labelled.images, changed.images, strict=True)), len(labelled.label_BDHW)
        if self._mixing is None:
            logits_BCDHW = self.logits([torch.cat(pair) for pair in pairs])
            segmentation = self.loss_of(logits_BCDHW[:known], labelled.label_BDHW)
            unlabelled = self.loss_of(logits_BCDHW[known:], pseudo_BDHW)
        else:
            masks = self._mixing.masks(batch[count])
            logits_BCDHW = self.logits(self._mixing.images(pairs, masks))
            labels = self._mixing.labels(labelled.label_BDHW, pseudo_BDHW, masks)
            segmentation, unlabelled = (self.loss_of(logits_BCDHW, own_BDHW) for own_BDHW in labels)
        return segmentation + self._weight * unlabelled, {"segmentation": segmentation, "unlabelled": unlabelled}

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of the weights, then of the teacher's."""
        assert self.average is not None
        self._weight.fill_(self.section.weight_at(self.average.steps))
        return super().train_step(batch)
