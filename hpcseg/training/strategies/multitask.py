"""S-MTL: F-Net and autoencoders side by side on tied convolutions (paper 4.3, 4.4)."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, cast

from hpcseg.config import RunConfig
from hpcseg.sections import Count, Positive, Section, key
from hpcseg.training.strategy import Needs, Strategy
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


class MultitaskConfig(Section):
    """S-MTL: F-Net and autoencoders side by side (paper 4.3, 4.4; room `training`)."""

    levels: Count = key(2, "that have an autoencoder, from the finest", unit="levels", source="paper 4.4")
    batch: Count = key(5, "patches of the F-Net's minibatch", unit="patches", source="paper 4.3")
    autoencoder_batch: Count = key(8, "patches of each autoencoder's minibatch", unit="patches", source="paper 4.3")
    gamma: Literal["auto"] | Positive = key(
        "auto",
        "weight of the autoencoders' mean loss; auto: the power of ten of the losses' mean ratio over epoch 1",
        unit="factor",
        source="paper 4.4: equal orders of magnitude",
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
        """Raise ValueError where there are more autoencoders than levels."""
        levels = self.section(config).levels
        if levels > config.network.levels:
            raise ValueError(f"multitask.levels = {levels} exceeds network.levels = {config.network.levels}")

    def needs(self, config: RunConfig) -> Needs:
        """The volumes that the autoencoders see."""
        return Needs(unlabelled=True)

    def unused(self, config: RunConfig) -> frozenset[str]:
        """What the F-Net's section, or its own, says for both."""
        return frozenset({"autoencoder.epochs", "autoencoder.steps", "autoencoder.batch"})

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
    batch norms. γ is 1 in the first epoch and then the power of ten of that epoch's mean L_FNet / L_WTA, unless the
    configuration gives it.
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
        self._set_gamma(1.0 if section.gamma == "auto" else section.gamma)

    def batches(self, first_step: int) -> Generator[Any]:
        """Pairs of a labelled and an unlabelled batch, from the global step `first_step` on."""
        from hpcseg.patches.prefetch import prefetched

        steps = range(first_step, self.epochs * self.steps)
        with (
            closing(prefetched(self._training, steps, device=self.device)) as labelled,
            closing(prefetched(self._unlabelled, steps, device=self.device)) as unlabelled,
        ):
            yield from zip(labelled, unlabelled, strict=True)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum, and the losses of the segmentation and of all reconstructions."""
        import torch

        labelled, unlabelled = cast("tuple[Batch, Batch]", batch)
        self.network.train()
        self.autoencoders.train()
        segmentation = self.segmentation_loss(labelled)
        pairs = zip(self.autoencoders, unlabelled.images, strict=True)
        reconstruction = torch.stack([reconstruction_loss(self, *pair) for pair in pairs]).mean()
        total = segmentation + self._weight * reconstruction
        return total, {"segmentation": segmentation, "reconstruction": reconstruction}

    def on_epoch_end(self, epoch: int, means: dict[str, float]) -> None:
        """Fix γ after the first epoch."""
        if epoch == 0 and self.section.gamma == "auto":
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
        self._weight.fill_(gamma * self.section.factor)
