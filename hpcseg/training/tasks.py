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
from hpcseg.networks.losses import dice_ce, huber
from hpcseg.patches.batches import AutoencoderBatches, SegmentationBatches
from hpcseg.patches.minibatch import Batch
from hpcseg.patches.prefetch import prefetched
from hpcseg.patches.sampling import Stream
from hpcseg.patches.source import Source
from hpcseg.training.loop import Task
from hpcseg.training.model import geometry_of
from hpcseg.training.precision import autocast, place

ParameterGroup = dict[str, Any]


def adam(config: RunConfig, groups: Sequence[ParameterGroup]) -> torch.optim.Adam:
    """Adam with coupled L2 decay; each group keeps the rate it began with as `initial_lr`."""
    with_start = [{**group, "initial_lr": group["lr"]} for group in groups]
    return torch.optim.Adam(with_start, weight_decay=config.training.weight_decay)


class SegmentationTask(Task):
    """The F-Net on labelled patches: the baseline and, with other parameter groups, S-TL."""

    phase = "training"

    def __init__(
        self,
        config: RunConfig,
        network: FNet,
        groups: Sequence[ParameterGroup],
        training: Sequence[Source],
        validation: Sequence[Source],
        device: torch.device,
        batch: int | None = None,
    ) -> None:
        self.config, self.device = config, device
        self.epochs, self.steps = config.training.epochs, config.training.steps
        self.network = place(network, device)
        self.modules: dict[str, nn.Module] = {"fnet": network}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"segmentation": adam(config, groups)}
        self._training = self._batches(training, Stream.TRAINING, batch or config.training.batch)
        self._validation = self._batches(validation, Stream.VALIDATION, config.training.batch)

    @property
    def kept(self) -> nn.Module:
        """The F-Net."""
        return self.network

    def _batches(self, sources: Sequence[Source], stream: Stream, batch: int) -> SegmentationBatches:
        config = self.config
        return SegmentationBatches(
            sources,
            geometry_of(config),
            config.patches,
            batch=batch,
            seed=config.seed,
            stream=stream,
            augmentation=config.augmentation if stream == Stream.TRAINING else None,
        )

    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""
        return prefetched(self._training, range(first_step, self.epochs * self.steps), device=self.device)

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of the F-Net."""
        self.network.train()
        optimizer = self.optimizers["segmentation"]
        optimizer.zero_grad(set_to_none=True)
        loss = self.segmentation_loss(batch)
        torch.autograd.backward(loss)
        optimizer.step()
        return {"segmentation": loss.detach()}

    def segmentation_loss(self, batch: Batch) -> Tensor:
        """Dice plus cross-entropy of one batch."""
        assert batch.label_BDHW is not None
        with autocast(self.config.training, self.device):
            logits_BCDHW = self.network(batch.images)
        return dice_ce(logits_BCDHW, batch.label_BDHW)

    @torch.no_grad()
    def validation_loss(self, epoch: int) -> float:
        """Mean loss over the validation batches of `epoch`, batch norm in evaluation mode."""
        self.network.eval()
        count = self.config.training.validation_steps
        with closing(
            prefetched(self._validation, range(epoch * count, (epoch + 1) * count), device=self.device)
        ) as batches:
            return math.fsum(float(self.segmentation_loss(batch)) for batch in batches) / count


class AutoencoderTask(Task):
    """The winner-take-all autoencoder of one level on patches without labels (paper 3.3.1)."""

    phase = "pretraining"

    def __init__(
        self, config: RunConfig, level: int, network: WTAutoencoder, sources: Sequence[Source], device: torch.device
    ) -> None:
        self.config, self.device = config, device
        self.epochs, self.steps = config.autoencoder.epochs, config.autoencoder.steps
        self.network = place(network, device)
        self.modules: dict[str, nn.Module] = {"autoencoder": network}
        groups = [{"params": list(network.parameters()), "lr": config.autoencoder.learning_rate}]
        self.optimizers: dict[str, torch.optim.Optimizer] = {"reconstruction": adam(config, groups)}
        self._training = autoencoder_batches(config, [level], sources, config.autoencoder.batch)

    @property
    def kept(self) -> nn.Module:
        """The autoencoder."""
        return self.network

    def batches(self, first_step: int) -> Generator[Any]:
        """Training batches from the global step `first_step` on."""
        return prefetched(self._training, range(first_step, self.epochs * self.steps), device=self.device)

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of encoder and decoder."""
        self.network.train()
        optimizer = self.optimizers["reconstruction"]
        optimizer.zero_grad(set_to_none=True)
        loss = reconstruction_loss(self.config, self.network, batch.images[0], self.device)
        torch.autograd.backward(loss)
        optimizer.step()
        return {"reconstruction": loss.detach()}


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
    ) -> None:
        groups = [{"params": list(network.parameters()), "lr": config.training.learning_rate}]
        super().__init__(config, network, groups, training, validation, device, batch=config.multitask.batch)
        self.autoencoders = place(nn.ModuleList(autoencoders), device)
        self.modules["autoencoders"] = self.autoencoders
        own = [p for one in autoencoders for p in (*one.encoder.norm_parameters(), *one.decoder_parameters())]
        self.optimizers["reconstruction"] = adam(config, [{"params": own, "lr": config.autoencoder.learning_rate}])
        levels = range(config.multitask.levels)
        self._unlabelled = autoencoder_batches(config, levels, unlabelled, config.multitask.autoencoder_batch)
        self.gamma = 1.0 if config.multitask.gamma == "auto" else config.multitask.gamma

    def batches(self, first_step: int) -> Generator[Any]:
        """Pairs of a labelled and an unlabelled batch, from the global step `first_step` on."""
        steps = range(first_step, self.epochs * self.steps)
        with (
            closing(prefetched(self._training, steps, device=self.device)) as labelled,
            closing(prefetched(self._unlabelled, steps, device=self.device)) as unlabelled,
        ):
            yield from zip(labelled, unlabelled, strict=True)

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        """One update of both networks from one backward pass."""
        labelled, unlabelled = cast(tuple[Batch, Batch], batch)
        self.network.train()
        self.autoencoders.train()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        segmentation = self.segmentation_loss(labelled)
        pairs = zip(self.autoencoders, unlabelled.images, strict=True)
        losses = [reconstruction_loss(self.config, network, image, self.device) for network, image in pairs]
        reconstruction = torch.stack(losses).mean()
        torch.autograd.backward(segmentation + self.gamma * self.config.multitask.factor * reconstruction)
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"segmentation": segmentation.detach(), "reconstruction": reconstruction.detach()}

    def close_epoch(self, epoch: int, means: dict[str, float]) -> None:
        """Fix γ after the first epoch."""
        if epoch == 0 and self.config.multitask.gamma == "auto":
            ratio = means["segmentation"] / max(means["reconstruction"], 1e-12)
            self.gamma = 10.0 ** round(math.log10(max(ratio, 1e-12)))

    def extra_state(self) -> dict[str, float]:
        """γ, which the first epoch fixed."""
        return {"gamma": self.gamma}

    def load_extra_state(self, state: dict[str, float]) -> None:
        """Take γ back."""
        self.gamma = state["gamma"]


def autoencoder_batches(
    config: RunConfig, levels: Sequence[int], sources: Sequence[Source], batch: int
) -> AutoencoderBatches:
    """Unlabelled batches of the given levels, sampled as the configuration says."""
    sampling = config.autoencoder.sampling
    if sampling == "auto":
        sampling = "uniform" if config.autoencoder.with_supplementary else "gaussian"
    return AutoencoderBatches(
        sources,
        geometry_of(config),
        levels=levels,
        batch=batch,
        seed=config.seed,
        stream=Stream.AUTOENCODER,
        sampling=sampling,
        sigma=config.autoencoder.sigma,
        lattice=config.patches.lattice,
        augmentation=config.augmentation,
    )


def reconstruction_loss(config: RunConfig, network: nn.Module, image_B1DHW: Tensor, device: torch.device) -> Tensor:
    """Mean Huber loss of an autoencoder over its whole input patch."""
    with autocast(config.training, device):
        reconstruction_B1DHW = network(image_B1DHW)
    return huber(reconstruction_B1DHW, image_B1DHW, config.autoencoder.huber_delta)
