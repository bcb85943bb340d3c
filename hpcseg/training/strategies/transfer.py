"""S-TL: the autoencoders' convolutions as the start of an F-Net's levels (paper 4.1, 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BeforeValidator

from hpcseg.config import RunConfig, TrainingConfig
from hpcseg.errors import Interrupted, TrainingError
from hpcseg.files import read_json, write_json
from hpcseg.paths import SIZES_FILE
from hpcseg.sections import Count, Positive, Section, key
from hpcseg.training.pretrained import pretrained_weights
from hpcseg.training.strategy import Needs, Strategy, require_winners
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask, fresh_network, rate_groups

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hpcseg.networks.fnet import CBR, FNet
    from hpcseg.training.update import ParameterGroup

# Which of a level's three convolutions are fine-tuned; the others stay as transferred.
_TUNED: Mapping[str, tuple[int, ...]] = {
    "freeze_all": (),
    "tune_3": (2,),
    "tune_2_3": (1, 2),
    "tune_1_3": (0, 1, 2),
    "tune_2_3_retrain_coarsest": (1, 2),
}


Sizes = Sequence[Sequence[float]]  # RMS of the weights of the three convolutions of each level, finest first


def _present_name(phi: Any) -> Any:
    return "fresh" if phi == "auto" else phi  # what it was called; ids and finished runs have it


class TransferConfig(Section):
    """S-TL: autoencoder weights as the F-Net's start (paper 4.1, 4.2; room `training`)."""

    phi: Annotated[Literal["fresh", "trained"] | Positive, BeforeValidator(_present_name)] = key(
        "trained",
        "what transferred weights are multiplied by; fresh, trained: per layer, so that their RMS is that of a fresh "
        "F-Net's, or of one's that was trained for phi_steps",
        unit="factor",
        source="paper 4.1, which gives no value; fresh in its files; trained is ours: fresh ones are soon overwritten",
    )
    phi_steps: Count = key(
        300,
        "with phi = trained: so long an F-Net of this configuration is trained before, for the size of its weights; at "
        "most a tenth of the training",
        unit="steps",
        source="ours: 20 epochs of the paper's, a fiftieth of a training",
    )
    scheme: Literal["freeze_all", "tune_3", "tune_2_3", "tune_1_3", "tune_2_3_retrain_coarsest"] = key(
        "tune_2_3",
        "which of the three transferred blocks of a level are tuned (the others are frozen); "
        "retrain_coarsest: the coarsest level begins fresh",
        source="paper 4.2",
    )
    fine_tune_rate: Literal["share"] | Positive = key(
        "share",
        "learning rate of tuned blocks, at the start; share: fine_tune_share of training.learning_rate",
        unit="per step",
        source="paper 4.2",
    )
    fine_tune_share: Positive = key(
        8 / 30,
        "with fine_tune_rate = share: of training.learning_rate",
        unit="share",
        source="paper 4.2: 8e-5 beside 3e-4",
    )

    def brief_steps(self, training: TrainingConfig) -> int:
        """Steps of the training for φ.

        >>> TransferConfig().brief_steps(TrainingConfig()), TransferConfig().brief_steps(TrainingConfig(epochs=22))
        (300, 33)
        """
        return max(1, min(self.phi_steps, training.epochs * training.steps // 10))

    def rate(self, learning_rate: float) -> float:
        """Learning rate of tuned blocks beside that of the rest; twelve digits, so that a share gives a plain number.

        >>> TransferConfig().rate(3e-4), TransferConfig().rate(3e-3), TransferConfig(fine_tune_rate=1e-4).rate(3e-3)
        (8e-05, 0.0008, 0.0001)
        """
        if self.fine_tune_rate == "share":
            return float(f"{self.fine_tune_share * learning_rate:.12g}")
        return self.fine_tune_rate


class Transfer(Strategy[TransferConfig]):
    """An F-Net whose levels begin as autoencoders that were trained before, on all volumes."""

    name, label, order = "transfer", "S-TL", 1
    section_type = TransferConfig
    networks = ("fnet",)
    free_keys = frozenset({"phi", "phi_steps", "fine_tune_rate", "fine_tune_share"})
    paper_hours = 130

    def check(self, config: RunConfig) -> None:
        """Raise ValueError where an autoencoder has too few voxels for its winners."""
        require_winners(config, self.needs(config).autoencoders)

    def needs(self, config: RunConfig) -> Needs:
        """The autoencoder of every level."""
        return Needs(autoencoders=tuple(range(config.network.levels)))

    def unused(self, config: RunConfig) -> frozenset[str]:
        """The rate of tuned blocks, where none is tuned, and its share, which `resolved` has in it."""
        section, unused = self.section(config), {"transfer.fine_tune_share"}
        if not _TUNED[section.scheme]:
            unused.add("transfer.fine_tune_rate")
        if section.phi != "trained":
            unused.add("transfer.phi_steps")
        return frozenset(unused)

    def resolved(self, config: RunConfig) -> Mapping[str, Any]:
        """The rate of tuned blocks and the steps for φ as they are; "fresh" under its former name, so that ids stay."""
        section, training = self.section(config), config.training
        phi = "auto" if section.phi == "fresh" else section.phi
        rate, steps = section.rate(training.learning_rate), section.brief_steps(training)
        return {"phi": phi, "phi_steps": steps, "fine_tune_rate": rate}

    def task(self, inputs: Inputs) -> SegmentationTask:
        """The F-Net with what was transferred, and the rates of its weights."""
        section, prefix = self.section(inputs.config), "encoder."
        sizes = trained_sizes(inputs, section.brief_steps(inputs.config.training)) if section.phi == "trained" else None
        network = cast("FNet", fresh_network(inputs))
        levels = self.needs(inputs.config).autoencoders
        models = [pretrained_weights(path, level=at) for at, path in zip(levels, inputs.pretrained, strict=True)]
        transfer(
            section,
            network,
            [{name.removeprefix(prefix): w for name, w in m.items() if name.startswith(prefix)} for m in models],
            sizes,
        )
        return SegmentationTask(inputs, network, parameter_groups(section, network, inputs))


def trained_sizes(inputs: Inputs, steps: int) -> Sizes:
    """RMS of the weights of each convolution of the levels of an F-Net that was trained from scratch for `steps` steps.

    It begins as this run's baseline would and sees the same minibatches, at one rate. The numbers are kept in
    `sizes.json` of the run directory; a job that is stopped before they are there begins again.

    Raises:
        Interrupted: a rank was asked to stop.
        TrainingError: a weight is not a finite number.
    """
    ranks, path = inputs.ranks, None if inputs.run is None else inputs.run / SIZES_FILE
    known = ranks.of_leader(lambda: read_json(path) if path is not None and path.exists() else None)
    if known is None:
        known = [[rms(block.conv.weight) for block in blocks] for blocks in _trained_blocks(inputs, steps)]
        if not all(math.isfinite(size) for level in known for size in level):
            raise TrainingError("weights became infinite while phi was worked out; lower the learning rate")
        if path is not None and ranks.leads:
            write_json(path, known)
        known = ranks.of_leader(lambda: known)
    return cast("Sizes", known)


def _trained_blocks(inputs: Inputs, steps: int) -> list[tuple[CBR, ...]]:
    """CBR1 to CBR3 of each level of the F-Net that `trained_sizes` is about."""
    from hpcseg.training.deferred import StopFlag

    network, control, stop = cast("FNet", fresh_network(inputs)), inputs.control, StopFlag(inputs.ranks)
    task = SegmentationTask(inputs, network)
    inputs.ranks.align(task.modules)
    with closing(task.batches_of(range(steps))) as batches:
        for step, batch in enumerate(batches, start=1):
            task.train_step(batch)
            if control is not None:
                control.beat(phase="training for phi", step=step, steps=steps)
            if stop.raised(control is not None and control.should_stop()):
                raise Interrupted("stopped while phi was worked out; the same command begins with that again")
    return [network.encoder(level).blocks for level in range(len(network.encoders))]


def rms(weight: Tensor) -> float:
    """Root of the mean square.

    >>> import torch
    >>> rms(torch.tensor([3.0, -4.0, 0.0, 0.0]))
    2.5
    """
    return float(weight.detach().double().square().mean().sqrt())


def transfer(
    section: TransferConfig, network: FNet, encoders: Sequence[Mapping[str, Tensor]], sizes: Sizes | None = None
) -> None:
    """Copy φ times the convolution weights of each level's encoder into the F-Net, in place.

    Batch norms are not transferred. φ "fresh" is, per layer, RMS(fresh F-Net weights) / RMS(autoencoder weights).

    Args:
        section: its scheme may leave the coarsest level out.
        network: a freshly initialised F-Net.
        encoders: per level, finest first, the state of an `Encoder`.
        sizes: with φ "trained" the RMS that the weights get.
    """
    import torch

    with torch.no_grad():
        for level in range(_transferred_levels(section, network)):
            for index, block in enumerate(network.encoder(level).blocks):
                learned, fresh = encoders[level][f"cbr{index + 1}.conv.weight"], block.conv.weight
                if section.phi == "trained":
                    assert sizes is not None
                    phi = sizes[level][index] / rms(learned)
                elif section.phi == "fresh":
                    phi = float(fresh.square().mean().sqrt() / learned.square().mean().sqrt())
                else:
                    phi = section.phi
                fresh.copy_(phi * learned)


def parameter_groups(section: TransferConfig, network: FNet, inputs: Inputs) -> list[ParameterGroup]:
    """Freeze what the scheme freezes; return all the rest (see `rate_groups`) and the fine-tuned convolutions.

    Batch norms train at the full rate even where convolutions are frozen.
    """
    tuned: list[nn.Parameter] = []
    transferred: set[int] = set()
    for level in range(_transferred_levels(section, network)):
        for index, block in enumerate(network.encoder(level).blocks):
            weight = cast("nn.Parameter", block.conv.weight)
            transferred.add(id(weight))
            if index in _TUNED[section.scheme]:
                tuned.append(weight)
            else:
                weight.requires_grad_(False)
    groups = rate_groups(inputs, (pair for pair in network.named_parameters() if id(pair[1]) not in transferred))
    rate = section.rate(inputs.config.training.learning_rate)
    return [*groups, {"params": tuned, "lr": rate}] if tuned else groups


def _transferred_levels(section: TransferConfig, network: FNet) -> int:
    """How many levels, from the finest on, receive an autoencoder's weights."""
    return len(network.encoders) - (section.scheme == "tune_2_3_retrain_coarsest")
