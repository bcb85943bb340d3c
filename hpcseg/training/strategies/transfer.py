"""S-TL: the autoencoders' convolutions as the start of an F-Net's levels (paper 4.1, 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from hpcseg.config import RunConfig
from hpcseg.sections import Positive, Section, key
from hpcseg.training.strategy import Needs, Strategy
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask, fresh_network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hpcseg.networks.fnet import FNet
    from hpcseg.training.update import ParameterGroup

# Which of a level's three convolutions are fine-tuned; the others stay as transferred.
_TUNED: Mapping[str, tuple[int, ...]] = {
    "freeze_all": (),
    "tune_3": (2,),
    "tune_2_3": (1, 2),
    "tune_1_3": (0, 1, 2),
    "tune_2_3_retrain_coarsest": (1, 2),
}


class TransferConfig(Section):
    """S-TL: autoencoder weights as the F-Net's start (paper 4.1, 4.2; room `training`)."""

    phi: Literal["auto"] | Positive = key(
        "auto",
        "what transferred weights are multiplied by; auto: per layer, so that their RMS is that of fresh ones",
        unit="factor",
        source="paper 4.1; auto is ours: it names no value",
    )
    scheme: Literal["freeze_all", "tune_3", "tune_2_3", "tune_1_3", "tune_2_3_retrain_coarsest"] = key(
        "tune_2_3",
        "which of the three transferred blocks of a level are tuned (the others are frozen); "
        "retrain_coarsest: the coarsest level begins fresh",
        source="paper 4.2",
    )
    fine_tune_rate: Positive = key(
        8e-5, "learning rate of tuned blocks, at the start", unit="per step", source="paper 4.2"
    )


class Transfer(Strategy[TransferConfig]):
    """An F-Net whose levels begin as autoencoders that were trained before, on all volumes."""

    name, label, order = "transfer", "S-TL", 1
    section_type = TransferConfig
    networks = ("fnet",)
    free_keys = frozenset({"phi", "fine_tune_rate"})
    paper_hours = 130

    def needs(self, config: RunConfig) -> Needs:
        """The autoencoder of every level."""
        return Needs(autoencoders=tuple(range(config.network.levels)))

    def unused(self, config: RunConfig) -> frozenset[str]:
        """The rate of tuned blocks, where none is tuned."""
        tuned = _TUNED[self.section(config).scheme]
        return frozenset() if tuned else frozenset({"transfer.fine_tune_rate"})

    def task(self, inputs: Inputs) -> SegmentationTask:
        """The F-Net with what was transferred, and the rates of its weights."""
        from hpcseg.training.checkpoint import load_tensors

        network, section, prefix = cast("FNet", fresh_network(inputs)), self.section(inputs.config), "encoder."
        models = [load_tensors(path)["weights"] for path in inputs.pretrained]
        transfer(
            section,
            network,
            [{name.removeprefix(prefix): w for name, w in m.items() if name.startswith(prefix)} for m in models],
        )
        groups = parameter_groups(section, network, inputs.config.training.learning_rate)
        return SegmentationTask(inputs, network, groups)


def transfer(section: TransferConfig, network: FNet, encoders: Sequence[Mapping[str, Tensor]]) -> None:
    """Copy φ times the convolution weights of each level's encoder into the F-Net, in place.

    Batch norms are not transferred. φ "auto" is, per layer, RMS(fresh F-Net weights) / RMS(autoencoder weights).

    Args:
        section: its scheme may leave the coarsest level out.
        network: a freshly initialised F-Net.
        encoders: per level, finest first, the state of an `Encoder`.
    """
    import torch

    with torch.no_grad():
        for level in range(_transferred_levels(section, network)):
            for number, block in enumerate(network.encoder(level).blocks, start=1):
                learned, fresh = encoders[level][f"cbr{number}.conv.weight"], block.conv.weight
                phi = section.phi
                if phi == "auto":
                    phi = float(fresh.square().mean().sqrt() / learned.square().mean().sqrt())
                fresh.copy_(phi * learned)


def parameter_groups(section: TransferConfig, network: FNet, rate: float) -> list[ParameterGroup]:
    """Freeze what the scheme freezes; return all the rest (at `rate`) and the fine-tuned convolutions.

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
    rest = [parameter for parameter in network.parameters() if id(parameter) not in transferred]
    groups = [{"params": rest, "lr": rate}]
    return [*groups, {"params": tuned, "lr": section.fine_tune_rate}] if tuned else groups


def _transferred_levels(section: TransferConfig, network: FNet) -> int:
    """How many levels, from the finest on, receive an autoencoder's weights."""
    return len(network.encoders) - (section.scheme == "tune_2_3_retrain_coarsest")
