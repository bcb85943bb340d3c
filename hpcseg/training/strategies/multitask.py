"""S-MTL: F-Net and autoencoders side by side on tied convolutions (paper 4.3, 4.4)."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BeforeValidator

from hpcseg.config import RunConfig
from hpcseg.sections import Count, Positive, Section, key
from hpcseg.training.strategy import Needs, Strategy, require_winners
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import (
    SegmentationTask,
    fresh_network,
    new_autoencoder,
    reconstruction_loss,
    unlabelled_batches,
)

if TYPE_CHECKING:
    from torch import Tensor

    from hpcseg.networks.fnet import FNet
    from hpcseg.patches.minibatch import Batch


def _present_name(gamma: Any) -> Any:
    return "power_of_ten" if gamma == "auto" else gamma  # what it was called; ids and finished runs have it


class MultitaskConfig(Section):
    """S-MTL: F-Net and autoencoders side by side (paper 4.3, 4.4; room `training`)."""

    levels: Count = key(2, "that have an autoencoder, from the finest", unit="levels", source="paper 4.4")
    batch: Count = key(5, "patches of the F-Net's minibatch", unit="patches", source="paper 4.3")
    autoencoder_batch: Count = key(8, "patches of each autoencoder's minibatch", unit="patches", source="paper 4.3")
    gamma: Annotated[Literal["ratio", "power_of_ten"] | Positive, BeforeValidator(_present_name)] = key(
        "ratio",
        "weight of the autoencoders' mean loss; ratio: that of the mean losses of epoch 1; power_of_ten: rounded",
        unit="factor",
        source="paper 4.4: equal orders of magnitude; ratio is ours: rounding jumps tenfold, where real CTs lie",
    )
    factor: Positive = key(1.0, "what gamma is multiplied by (the paper's f)", unit="factor", source="paper 4.4")


class Multitask(Strategy[MultitaskConfig]):
    """An F-Net that is trained together with autoencoders of its finer levels."""

    name, label, order = "multitask", "S-MTL", 2
    section_type = MultitaskConfig
    networks = ("fnet",)
    free_keys = frozenset({"gamma", "factor"})
    paper_hours = 195

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where there are more autoencoders than levels, or more winners than voxels of one's code."""
        levels = self.section(config).levels
        if levels > config.network.levels:
            raise ValueError(f"multitask.levels = {levels} exceeds network.levels = {config.network.levels}")
        require_winners(config, range(levels))

    def needs(self, config: RunConfig) -> Needs:
        """The volumes that the autoencoders see."""
        return Needs(unlabelled=True)

    def unused(self, config: RunConfig) -> frozenset[str]:
        """What the F-Net's section, or its own, says for both."""
        return frozenset({"autoencoder.epochs", "autoencoder.steps", "autoencoder.batch"})

    def resolved(self, config: RunConfig) -> Mapping[str, Any]:
        """The power of ten under its former name, so that no run gets another id."""
        return {"gamma": "auto"} if self.section(config).gamma == "power_of_ten" else {}

    def batches(self, config: RunConfig) -> dict[str, int]:
        """A minibatch of the F-Net, and one of every autoencoder."""
        section = self.section(config)
        return {"multitask.batch": section.batch, "multitask.autoencoder_batch": section.autoencoder_batch}

    def comparing_key(self, config: RunConfig) -> str:
        """Lifetime sparsity, where it is on."""
        return "autoencoder.lifetime" if config.autoencoder.lifetime > 0 else ""

    def task(self, inputs: Inputs) -> MultitaskTask:
        """F-Net and autoencoders."""
        return MultitaskTask(inputs, self.section(inputs.config))


class MultitaskTask(SegmentationTask):
    """L = L_FNet + γ f mean(L_WTA), in one backward pass.

    Optimizer "segmentation" owns encoders and integration, "reconstruction" owns the decoders and the autoencoders'
    batch norms. γ is 1 in the first epoch and then that epoch's mean L_FNet / L_WTA, or the power of ten nearest to it,
    unless the configuration gives a number.
    """

    def __init__(self, inputs: Inputs, section: MultitaskConfig) -> None:
        import torch
        from torch import nn

        from hpcseg.training.norm import share_statistics
        from hpcseg.training.update import adam

        network, config, levels = cast("FNet", fresh_network(inputs)), inputs.config, range(section.levels)
        autoencoders = [new_autoencoder(config, level, network) for level in levels]
        super().__init__(inputs, network, batch=section.batch)
        self.section = section
        for one in autoencoders:
            share_statistics(one, inputs.ranks, compiled=self.precision.compiled)
        self.autoencoders = nn.ModuleList(map(self.precision.place, autoencoders))
        self.modules["autoencoders"] = self.autoencoders
        own = [p for one in autoencoders for p in (*one.encoder.norm_parameters(), *one.decoder_parameters())]
        self.optimizers["reconstruction"] = adam(config, [{"params": own, "lr": config.autoencoder.learning_rate}])
        self._unlabelled = unlabelled_batches(inputs, levels, section.autoencoder_batch)
        self._weight = torch.empty((), device=self.device)  # γ f where the step reads it, also a recorded step
        self._set_gamma(1.0 if isinstance(section.gamma, str) else section.gamma)

    def batches(self, first_step: int) -> Generator[Any]:
        """Pairs of a labelled and an unlabelled batch, from the global step `first_step` on."""
        return self.together(first_step, self._training, self._unlabelled)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum, and the losses of the segmentation and of all reconstructions."""
        labelled, unlabelled = cast("tuple[Batch, Batch]", batch)
        self.network.train()
        self.autoencoders.train()
        segmentation = self.segmentation_loss(labelled)
        reconstruction = self._reconstruction_loss(unlabelled)
        total = segmentation + self._weight * reconstruction
        return total, {"segmentation": segmentation, "reconstruction": reconstruction}

    def _reconstruction_loss(self, batch: Batch) -> Tensor:
        """Mean of the autoencoders' losses."""
        import torch

        pairs = zip(self.autoencoders, batch.images, strict=True)
        return torch.stack([reconstruction_loss(self, *pair) for pair in pairs]).mean()

    def measure(self, epoch: int) -> dict[str, Any]:
        """Dice; the share of each loss, weighted as in `losses`, in the gradient of the convolutions that both have.

        Of the epoch's last minibatch, with the weights as they are after it: norm of the loss's gradient over the sum
        of both norms. Batch norms' statistics, which forward passes move, are put back.
        """
        import torch

        buffers = [buffer for module in self.modules.values() for buffer in module.buffers()]
        before = [buffer.clone() for buffer in buffers]
        step = (epoch + 1) * self.steps - 1
        labelled, unlabelled = (batches.raw(step).to(self.device) for batches in (self._training, self._unlabelled))
        self.network.train()
        self.autoencoders.train()
        segmentation = self._gradient_norm(self.segmentation_loss(labelled))
        reconstruction = self._gradient_norm(self._weight * self._reconstruction_loss(unlabelled))
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        both = segmentation + reconstruction
        if not (math.isfinite(both) and both > 0):  # an overflow of float16
            return super().measure(epoch)
        shares = {"segmentation": segmentation / both, "reconstruction": reconstruction / both}
        return super().measure(epoch) | {"gradient_shares": shares}

    def _gradient_norm(self, loss: Tensor) -> float:
        """Norm of a loss's gradient with respect to the tied convolutions, over all ranks; scaled as in training."""
        import torch

        network = cast("FNet", self.modules["fnet"])
        tied = [block.conv.weight for level in range(self.section.levels) for block in network.encoder(level).blocks]
        for scale in self.update.scale().values():  # of float16
            loss = loss * scale
        gradients = torch.autograd.grad(loss, tied)
        flat = self.ranks.add_up(torch.cat([gradient.flatten().double() for gradient in gradients]))
        return float(flat.square().sum().sqrt())

    def on_epoch_end(self, epoch: int, means: dict[str, float]) -> None:
        """Fix γ after the first epoch."""
        if epoch == 0 and isinstance(self.section.gamma, str):
            ratio = max(means["segmentation"] / max(means["reconstruction"], 1e-12), 1e-12)
            self._set_gamma(ratio if self.section.gamma == "ratio" else 10.0 ** round(math.log10(ratio)))

    def extra_state(self) -> dict[str, float]:
        """γ, which the first epoch fixed."""
        return {"gamma": self.gamma}

    def load_extra_state(self, state: dict[str, float]) -> None:
        """Take γ back."""
        self._set_gamma(state["gamma"])

    def _set_gamma(self, gamma: float) -> None:
        self.gamma = gamma
        self._weight.fill_(gamma * self.section.factor)
