"""What the loop trains: a segmentation network, or an autoencoder (paper 3.1.1, 3.3.1); importing it needs no torch.

Shape legend: B batch, C classes, D/H/W the axes z, y, x of a patch; an input has one channel (B1DHW).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from hpcseg.training.task import Inputs, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hpcseg.config import AugmentationConfig, AutoencoderConfig, RunConfig, TrainingConfig
    from hpcseg.networks.autoencoder import WTAutoencoder
    from hpcseg.networks.fnet import FNet
    from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
    from hpcseg.patches.minibatch import Batch
    from hpcseg.patches.source import Source
    from hpcseg.training.model import SegmentationNetwork
    from hpcseg.training.update import ParameterGroup


class NetworkTask(Task):
    """One network with one optimizer, on one series of minibatches.

    Args:
        inputs: configuration, volumes, and where and with whom to train.
        network: under the name `module` in checkpoints.
        loss: that its optimizer's schedule watches.
        groups: its weights with their rates.
        length: section with the number of epochs, and of steps of each.
    """

    def __init__(
        self,
        inputs: Inputs,
        network: nn.Module,
        *,
        module: str,
        loss: str,
        groups: Sequence[ParameterGroup],
        length: TrainingConfig | AutoencoderConfig,
    ) -> None:
        from hpcseg.training.norm import share_statistics
        from hpcseg.training.precision import Precision
        from hpcseg.training.update import Update, adam

        self.inputs, self.config, self.device, self.ranks = inputs, inputs.config, inputs.device, inputs.ranks
        self.epochs, self.steps = length.epochs, length.steps
        self.precision = Precision.of(self.config.training, self.device)
        share_statistics(network, self.ranks, compiled=self.precision.compiled)
        self.network = self.precision.place(network)
        self.modules: dict[str, nn.Module] = {module: network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {loss: adam(self.config, groups)}
        self.update = Update(self.precision, self.optimizers, self.ranks)
        self._training: SegmentationBatches | AutoencoderBatches

    @property
    def kept(self) -> nn.Module:
        """The network."""
        return self.network

    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""
        return self.batches_of(range(first_step, self.epochs * self.steps))

    def batches_of(self, steps: range) -> Generator[Any]:
        """Minibatches of the network of the given steps."""
        from hpcseg.patches.prefetch import prefetched

        return prefetched(self._training, steps, device=self.device)

    def together(self, first_step: int, *series: SegmentationBatches | AutoencoderBatches) -> Generator[Any]:
        """Minibatches of several series, a tuple for each step, from the global step `first_step` on."""
        from hpcseg.patches.prefetch import prefetched

        steps = range(first_step, self.epochs * self.steps)
        with ExitStack() as stack:
            read = [stack.enter_context(closing(prefetched(one, steps, device=self.device))) for one in series]
            yield from zip(*read, strict=True)


class SegmentationTask(NetworkTask):
    """A network on labelled patches: the baseline; other strategies begin with other weights, or add to it.

    Args:
        inputs: configuration, volumes, and where and with whom to train.
        network: None for a fresh one.
        groups: its weights with their rates; None: see `rate_groups`.
        batch: patches of a training minibatch; None: as configured.
        average: what a step leaves of the average of the weights, which is validated and kept; 0: there is none; None:
            as configured.
    """

    phase = "training"
    _overlap: Tensor  # of the last validation
    partly_labelled = False  # whether voxels of a minibatch may have no class, see `hpcseg.networks.losses`

    def __init__(
        self,
        inputs: Inputs,
        network: SegmentationNetwork | None = None,
        groups: Sequence[ParameterGroup] | None = None,
        batch: int | None = None,
        average: float | None = None,
    ) -> None:
        from hpcseg.patches.sampling import Stream
        from hpcseg.training.average import WeightAverage
        from hpcseg.training.precision import Precision

        config, network = inputs.config.training, network or fresh_network(inputs)
        groups = groups or rate_groups(inputs, network.named_parameters())
        kind, decay, averaged = inputs.config.network.kind, config.average if average is None else average, None
        if decay > 0:
            averaged = WeightAverage(network, decay, Precision.of(config, inputs.device))
        super().__init__(inputs, network, module=kind, loss="segmentation", groups=groups, length=config)
        if averaged is not None:
            self.modules["average"] = averaged.network
        self.average = self.update.average = averaged
        self.partly_labelled |= any(source.case.ignored for source in (*inputs.labelled, *inputs.validation))
        self._training = self._batches(inputs.labelled, Stream.TRAINING, batch or config.batch)
        self._validation = self._batches(inputs.validation, Stream.VALIDATION, config.batch)

    @property
    def kept(self) -> nn.Module:
        """The network, or the average of its weights."""
        return self.network if self.average is None else self.average.network

    def _batches(self, sources: Sequence[Source], stream: int, batch: int) -> SegmentationBatches:
        from hpcseg.patches.batches import SegmentationBatches
        from hpcseg.patches.sampling import Draw, Stream
        from hpcseg.training.model import geometry_of

        config = self.config
        draw = Draw(
            batch=batch,
            seed=config.seed,
            stream=stream,
            lattice=config.patches.lattice,
            augmentation=None if stream == Stream.VALIDATION else config.augmentation,
            part=self.ranks.part,
            dtype=self.precision.input_dtype,
        )
        # A poor teacher may have found nothing anywhere.
        found = stream != Stream.PSEUDO_LABELS or any(source.case.foreground_classes for source in sources)
        share = config.patches.foreground_share if found else 0.0
        return SegmentationBatches(sources, geometry_of(config), draw, foreground_share=share)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The segmentation's loss."""
        self.network.train()
        loss = self.segmentation_loss(batch)
        return loss, {"segmentation": loss}

    def segmentation_loss(self, batch: Batch, network: nn.Module | None = None) -> Tensor:
        """The configured loss of one batch; `network`: None for the one that is trained."""
        assert batch.label_BDHW is not None
        return self.loss_of(self.logits(batch.images, network), batch.label_BDHW)

    def logits(self, images: Sequence[Tensor], network: nn.Module | None = None) -> Tensor:
        """What a network answers, (B, C, P, P, P); `network`: None for the one that is trained."""
        network = self.network if network is None else network
        with self.precision.autocast():
            logits_BCDHW: Tensor = network(images)
        return logits_BCDHW

    def loss_of(self, logits_BCDHW: Tensor, label_BDHW: Tensor) -> Tensor:
        """The configured loss of an answer."""
        from hpcseg.networks.losses import segmentation_loss

        partly, reduce = self.partly_labelled, self.ranks.reduce
        return segmentation_loss(self.config.training, logits_BCDHW, label_BDHW, reduce, partly=partly)

    def validation_loss(self, epoch: int) -> float:
        """Mean loss of what is kept over the validation batches of `epoch`, batch norm in evaluation mode."""
        import torch

        from hpcseg.patches.prefetch import prefetched

        self.kept.eval()
        count = self.config.training.validation_steps
        steps = range(epoch * count, (epoch + 1) * count)
        with torch.no_grad(), closing(prefetched(self._validation, steps, device=self.device)) as batches:
            losses, overlaps = zip(*(self._validated(batch) for batch in batches), strict=True)
        self._overlap = self.ranks.add_up(torch.stack(overlaps).sum(dim=0))
        return math.fsum(torch.stack(losses).tolist()) / count

    def _validated(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and overlap of one batch."""
        from hpcseg.training.patch_dice import overlap

        if self.pulse is not None:
            self.pulse()
        assert batch.label_BDHW is not None
        logits_BCDHW = self.logits(batch.images, self.kept)
        return self.loss_of(logits_BCDHW, batch.label_BDHW), overlap(logits_BCDHW, batch.label_BDHW)

    def measure(self, epoch: int) -> dict[str, Any]:
        """Dice of each class in the validation minibatches of the epoch."""
        from hpcseg.training.patch_dice import dice

        return {"validation_dice": dice(self._overlap)}


class AutoencoderTask(NetworkTask):
    """The winner-take-all autoencoder of one level on the unlabelled volumes of `inputs` (paper 3.3.1)."""

    phase = "pretraining"

    def __init__(self, inputs: Inputs, level: int) -> None:
        config, network, own = inputs.config.autoencoder, new_autoencoder(inputs.config, level), f"encoders.{level}."
        start = {name.removeprefix(own): w for name, w in inputs.start.items() if name.startswith(own)}
        network.encoder.load_state_dict(network.encoder.state_dict() | start)
        groups = [{"params": list(network.parameters()), "lr": config.learning_rate}]
        super().__init__(inputs, network, module="autoencoder", loss="reconstruction", groups=groups, length=config)
        self._training = unlabelled_batches(inputs, [level], config.batch)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction's loss."""
        self.network.train()
        loss = reconstruction_loss(self, self.network, batch.images[0])
        return loss, {"reconstruction": loss}


def fresh_network(inputs: Inputs) -> SegmentationNetwork:
    """The network of a run as its seed makes it, but for what another model gives it (`training.start`)."""
    import torch

    from hpcseg.patches.sampling import WORD
    from hpcseg.training.model import new_network

    network = new_network(inputs.config, inputs.classes, torch.Generator().manual_seed(inputs.config.seed & WORD))
    network.load_state_dict({**network.state_dict(), **inputs.start})
    return network


def rate_groups(inputs: Inputs, named: Iterable[tuple[str, nn.Parameter]]) -> list[ParameterGroup]:
    """Weights at the configured learning rate, and those that another model gave at their share of it."""
    config, named = inputs.config.training, list(named)
    taken = inputs.start.keys() if config.start_share < 1 else ()
    groups: list[ParameterGroup] = []
    for of_model, rate in ((False, config.learning_rate), (True, config.learning_rate * config.start_share)):
        own = [weight for name, weight in named if (name in taken) is of_model]
        groups += [{"params": own, "lr": rate}] if own else []
    return groups


def new_autoencoder(config: RunConfig, level: int, network: FNet | None = None) -> WTAutoencoder:
    """A fresh autoencoder of one level; with `network`, on that network's convolutions."""
    import torch

    from hpcseg.networks.autoencoder import WTAutoencoder
    from hpcseg.patches.sampling import WORD

    return WTAutoencoder(
        config.network.kernel,
        config.network.maps_per_level[level],
        config.network.init_gain,
        config.autoencoder,
        encoder=None if network is None else network.encoder(level).twin(),
        generator=torch.Generator().manual_seed(config.seed & WORD),  # drawn as the F-Net's and the other levels'
    )


def unlabelled_batches(
    inputs: Inputs,
    levels: Sequence[int],
    batch: int,
    augmentation: AugmentationConfig | None = None,
    dtype: torch.dtype | None = None,
) -> AutoencoderBatches:
    """Minibatches of the given levels of unlabelled volumes, sampled as the autoencoders' section says.

    Args:
        inputs: configuration, volumes, and who reads which of the patches.
        levels: in the order wanted.
        batch: patches.
        augmentation: None for the configured one; places do not depend on it.
        dtype: None for float32, in which reconstructions are compared with what was read.
    """
    import torch

    from hpcseg.patches.batches import AutoencoderBatches
    from hpcseg.patches.sampling import Draw, Place, Stream
    from hpcseg.training.model import geometry_of

    config = inputs.config
    draw = Draw(
        batch=batch,
        seed=config.seed,
        stream=Stream.AUTOENCODER,
        lattice=config.patches.lattice,
        augmentation=augmentation or config.augmentation,
        part=inputs.ranks.part,
        dtype=dtype or torch.float32,
    )
    section = config.autoencoder
    place = Place(section.resolved_sampling, section.sigma, section.inside)
    return AutoencoderBatches(inputs.unlabelled, geometry_of(config), draw, levels=levels, place=place)


def reconstruction_loss(task: NetworkTask, network: nn.Module, image_B1DHW: Tensor) -> Tensor:
    """The configured loss of an autoencoder over its whole input patch."""
    from hpcseg.networks.losses import reconstruction_error

    with task.precision.autocast():
        reconstruction_B1DHW = network(image_B1DHW)
    return reconstruction_error(task.config.autoencoder, reconstruction_B1DHW, image_B1DHW, task.ranks.reduce)
