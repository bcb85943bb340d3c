"""What the loop trains: an F-Net, an autoencoder, or both side by side (paper 3.1.1, 3.3.1, 4.3).

Shape legend: B batch, C classes, D/H/W the axes z, y, x of a patch; an input has one channel (B1DHW).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, cast

import torch
from torch import Tensor, nn

from hpcseg.config import RunConfig
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.networks.losses import reconstruction_error, segmentation_loss
from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
from hpcseg.patches.minibatch import Batch
from hpcseg.patches.prefetch import prefetched
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.patches.source import Source
from hpcseg.training.model import SegmentationNetwork, geometry_of
from hpcseg.training.norm import share_statistics
from hpcseg.training.precision import Precision
from hpcseg.training.ranks import ALONE, Ranks
from hpcseg.training.task import Task
from hpcseg.training.update import ParameterGroup, Update, adam


class SegmentationTask(Task):
    """A network on labelled patches: the baseline (F-Net or U-Net) and, with other parameter groups, S-TL."""

    phase = "training"

    def __init__(
        self,
        config: RunConfig,
        network: SegmentationNetwork,
        groups: Sequence[ParameterGroup],
        training: Sequence[Source],
        validation: Sequence[Source],
        device: torch.device,
        ranks: Ranks = ALONE,
        batch: int | None = None,
    ) -> None:
        self.config, self.device, self.ranks = config, device, ranks
        self.epochs, self.steps = config.training.epochs, config.training.steps
        self.precision = Precision.of(config.training, device)
        share_statistics(network, ranks, compiled=self.precision.compiled)
        self.network = self.precision.place(network)
        self.modules: dict[str, nn.Module] = {config.network.kind: network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"segmentation": adam(config, groups)}
        self.update = Update(self.precision, self.optimizers, ranks)
        self._training = self._batches(training, Stream.TRAINING, batch or config.training.batch)
        self._validation = self._batches(validation, Stream.VALIDATION, config.training.batch)

    @property
    def kept(self) -> nn.Module:
        """The network."""
        return self.network

    def _batches(self, sources: Sequence[Source], stream: Stream, batch: int) -> SegmentationBatches:
        config = self.config
        draw = Draw(
            batch=batch,
            seed=config.seed,
            stream=stream,
            lattice=config.patches.lattice,
            augmentation=config.augmentation if stream == Stream.TRAINING else None,
            part=self.ranks.part,
            dtype=self.precision.input_dtype,
        )
        share = config.patches.foreground_share
        return SegmentationBatches(sources, geometry_of(config), draw, foreground_share=share)

    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""
        return prefetched(self._training, range(first_step, self.epochs * self.steps), device=self.device)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The segmentation's loss."""
        self.network.train()
        loss = self.segmentation_loss(batch)
        return loss, {"segmentation": loss}

    def segmentation_loss(self, batch: Batch) -> Tensor:
        """The configured loss of one batch."""
        assert batch.label_BDHW is not None
        with self.precision.autocast():
            logits_BCDHW = self.network(batch.images)
        return segmentation_loss(self.config.training, logits_BCDHW, batch.label_BDHW, self.ranks.reduce)

    @torch.no_grad()
    def validation_loss(self, epoch: int) -> float:
        """Mean loss over the validation batches of `epoch`, batch norm in evaluation mode."""
        self.network.eval()
        count = self.config.training.validation_steps
        with closing(
            prefetched(self._validation, range(epoch * count, (epoch + 1) * count), device=self.device)
        ) as batches:
            losses = torch.stack([self._validated(batch) for batch in batches])
        return math.fsum(losses.tolist()) / count

    def _validated(self, batch: Batch) -> Tensor:
        if self.pulse is not None:
            self.pulse()
        return self.segmentation_loss(batch)


class AutoencoderTask(Task):
    """The winner-take-all autoencoder of one level on patches without labels (paper 3.3.1)."""

    phase = "pretraining"

    def __init__(
        self,
        config: RunConfig,
        level: int,
        network: WTAutoencoder,
        sources: Sequence[Source],
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.device, self.ranks = config, device, ranks
        self.epochs, self.steps = config.autoencoder.epochs, config.autoencoder.steps
        self.precision = Precision.of(config.training, device)
        share_statistics(network, ranks, compiled=self.precision.compiled)
        self.network = self.precision.place(network)
        self.modules: dict[str, nn.Module] = {"autoencoder": network}
        groups = [{"params": list(network.parameters()), "lr": config.autoencoder.learning_rate}]
        self.optimizers: dict[str, torch.optim.Optimizer] = {"reconstruction": adam(config, groups)}
        self.update = Update(self.precision, self.optimizers, ranks)
        self._training = autoencoder_batches(config, [level], sources, config.autoencoder.batch, ranks)

    @property
    def kept(self) -> nn.Module:
        """The autoencoder."""
        return self.network

    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""
        return prefetched(self._training, range(first_step, self.epochs * self.steps), device=self.device)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction's loss."""
        self.network.train()
        loss = reconstruction_loss(self.config, self.network, batch.images[0], self.precision, self.ranks)
        return loss, {"reconstruction": loss}


class MultitaskTask(SegmentationTask):
    """F-Net and autoencoders side by side on tied convolutions (paper 4.3, 4.4): L = L_FNet + γ f mean(L_WTA).

    One backward pass; optimizer "segmentation" owns encoders and integration, "reconstruction" owns the decoders and
    the autoencoders' batch norms. γ is 1 in the first epoch and then the power of ten of that epoch's mean
    L_FNet / L_WTA, unless the configuration gives it.
    """

    def __init__(
        self,
        config: RunConfig,
        network: FNet,
        autoencoders: Sequence[WTAutoencoder],
        training: Sequence[Source],
        validation: Sequence[Source],
        unlabelled: Sequence[Source],
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        groups = [{"params": list(network.parameters()), "lr": config.training.learning_rate}]
        super().__init__(config, network, groups, training, validation, device, ranks, config.multitask.batch)
        for one in autoencoders:
            share_statistics(one, ranks, compiled=self.precision.compiled)
        self.autoencoders = nn.ModuleList(map(self.precision.place, autoencoders))
        self.modules["autoencoders"] = self.autoencoders
        own = [p for one in autoencoders for p in (*one.encoder.norm_parameters(), *one.decoder_parameters())]
        self.optimizers["reconstruction"] = adam(config, [{"params": own, "lr": config.autoencoder.learning_rate}])
        levels = range(config.multitask.levels)
        self._unlabelled = autoencoder_batches(config, levels, unlabelled, config.multitask.autoencoder_batch, ranks)
        self._weight = torch.empty((), device=device)  # γ f where the step reads it, and a recorded one reads it anew
        self._set_gamma(1.0 if config.multitask.gamma == "auto" else config.multitask.gamma)

    def batches(self, first_step: int) -> Generator[Any]:
        """Pairs of a labelled and an unlabelled batch, from the global step `first_step` on."""
        steps = range(first_step, self.epochs * self.steps)
        with (
            closing(prefetched(self._training, steps, device=self.device)) as labelled,
            closing(prefetched(self._unlabelled, steps, device=self.device)) as unlabelled,
        ):
            yield from zip(labelled, unlabelled, strict=True)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum, and the losses of the segmentation and of all reconstructions."""
        labelled, unlabelled = cast(tuple[Batch, Batch], batch)
        self.network.train()
        self.autoencoders.train()
        segmentation = self.segmentation_loss(labelled)
        pairs = zip(self.autoencoders, unlabelled.images, strict=True)
        losses = [reconstruction_loss(self.config, *pair, self.precision, self.ranks) for pair in pairs]
        reconstruction = torch.stack(losses).mean()
        total = segmentation + self._weight * reconstruction
        return total, {"segmentation": segmentation, "reconstruction": reconstruction}

    def on_epoch_end(self, epoch: int, means: dict[str, float]) -> None:
        """Fix γ after the first epoch."""
        if epoch == 0 and self.config.multitask.gamma == "auto":
            ratio = means["segmentation"] / max(means["reconstruction"], 1e-12)
            self._set_gamma(10.0 ** round(math.log10(max(ratio, 1e-12))))

    def extra_state(self) -> dict[str, float]:
        """γ, which the first epoch fixed."""
        return {"gamma": self.gamma}

    def load_extra_state(self, state: dict[str, float]) -> None:
        """Take γ back."""
        self._set_gamma(state["gamma"])

    def _set_gamma(self, gamma: float) -> None:
        self.gamma = gamma
        self._weight.fill_(gamma * self.config.multitask.factor)


def autoencoder_batches(
    config: RunConfig, levels: Sequence[int], sources: Sequence[Source], batch: int, ranks: Ranks
) -> AutoencoderBatches:
    """Unlabelled batches of the given levels, sampled as the configuration says."""
    sampling = config.autoencoder.sampling
    if sampling == "auto":
        sampling = "uniform" if config.autoencoder.with_supplementary else "gaussian"
    draw = Draw(
        batch=batch,
        seed=config.seed,
        stream=Stream.AUTOENCODER,
        lattice=config.patches.lattice,
        augmentation=config.augmentation,
        part=ranks.part,
    )
    sigma = config.autoencoder.sigma
    return AutoencoderBatches(sources, geometry_of(config), draw, levels=levels, sampling=sampling, sigma=sigma)


def reconstruction_loss(
    config: RunConfig, network: nn.Module, image_B1DHW: Tensor, precision: Precision, ranks: Ranks
) -> Tensor:
    """The configured loss of an autoencoder over its whole input patch."""
    with precision.autocast():
        reconstruction_B1DHW = network(image_B1DHW)
    return reconstruction_error(config.autoencoder, reconstruction_B1DHW, image_B1DHW, ranks.reduce)
