"""The floor: against torch's own count of operations, sizes from the paper's decisions, and the page that shows it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.config import AutoencoderConfig, RunConfig
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.training.strategies.multitask import MultitaskConfig
from tests.gpu import performance
from tests.gpu.floor import (
    PAPER,
    Ceilings,
    Shape,
    Stage,
    autoencoder_step,
    box_voxels,
    by_kind,
    fnet_step,
    multitask_step,
    operations,
    seconds,
)
from tests.gpu.sizes import PAPER as PAPER_SIZES

SHAPES = {
    "paper": PAPER,
    "kernel 3": Shape(FovealGeometry(64, 3, 4), (16, 24, 32, 48)),
    "two levels": Shape(FovealGeometry(21, 3, 2), (4, 6), channels=3),
    "one level": Shape(FovealGeometry(12, 5, 1), (5,)),
}


def network_of(shape: Shape) -> FNet:
    geometry = shape.geometry
    return FNet(geometry.kernel, geometry.levels, shape.maps, shape.channels - 1, 0.01).to("meta")


def counted(shape: Shape, batch: int) -> tuple[int, int]:
    """Operations that torch counts forward, and forward and backward."""
    network = network_of(shape)
    images = [torch.empty(batch, 1, *(edge,) * 3, device="meta") for edge in shape.geometry.inputs]
    with FlopCounterMode(display=False) as counter:
        logits = network(images)
        forward = counter.get_total_flops()
        logits.sum().backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("name", SHAPES)
def test_operations_of_convolutions_are_those_that_torch_counts(name: str) -> None:
    shape, batch = SHAPES[name], 3
    kinds = by_kind(fnet_step(shape, batch))
    head = {stage.name: stage.operations for stage in kinds["classifier"]}
    own = {kind: operations(stages) for kind, stages in kinds.items() if kind.startswith("convolution")}
    forward, whole = counted(shape, batch)
    assert own["convolution forward"] + head["forward"] == forward
    assert sum(own.values()) + sum(head.values()) == whole


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_network(name: str) -> None:
    shape = SHAPES[name]
    assert shape.parameters == sum(parameter.numel() for parameter in network_of(shape).parameters())


def test_the_paper_s_step() -> None:
    forward = [stage for stage in fnet_step(PAPER, 1) if stage.kind == "convolution forward"]
    assert operations(forward) / 2e9 == pytest.approx(146.1, abs=0.1)
    assert operations(fnet_step(PAPER, 8)) / 1e12 == pytest.approx(7.0, abs=0.05)
    assert PAPER_SIZES.shape() == PAPER
    assert PAPER.parameters == 1_681_090


def test_autoencoder_s_operations_are_its_encoder_s_and_stamps() -> None:
    shape, level, batch = SHAPES["two levels"], 1, 2
    network = WTAutoencoder(3, 6, 0.01, AutoencoderConfig(winners=5)).to("meta")
    edge = shape.geometry.inputs[level]
    with FlopCounterMode(display=False) as counter:
        network.encoder(torch.empty(batch, 1, edge, edge, edge, device="meta")).sum().backward()
    stages = autoencoder_step(shape, level, batch, winners=5, kernel=7)
    kinds = by_kind(stages)
    own = sum(operations(found) for kind, found in kinds.items() if kind.startswith("convolution"))
    assert own == counter.get_total_flops()
    assert operations(kinds["decoder"]) == 6 * batch * 6 * 5 * 7**3
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert kinds["Adam"][0].bytes == 7 * 4 * parameters


def test_tied_autoencoders_update_no_convolution_twice() -> None:
    batch, beside, levels = 5, 8, 2
    updates = by_kind(multitask_step(PAPER, batch, beside, levels))["Adam"]
    decoders_and_norms = levels * (32 * 13**3 + 1 + 3 * 2 * 32)
    assert sum(stage.bytes for stage in updates) == 7 * 4 * (PAPER.parameters + decoders_and_norms)


@pytest.mark.parametrize(("lattice", "voxels"), [(8, 801_920), (4, 955_584), (2, 2_513_488), (1, 15_937_976)])
def test_voxels_read_are_those_of_the_decisions(lattice: int, voxels: int) -> None:
    read = sum(box_voxels(PAPER.geometry, level, lattice) for level in range(4))
    assert read == pytest.approx(voxels, rel=2e-3)


def test_bytes_of_one_convolution_by_hand() -> None:
    shape = Shape(FovealGeometry(72, 5, 4), (32,) * 4)
    stages = {(stage.kind, stage.name): stage for stage in fnet_step(shape, 8)}
    coming, going, weights = 8 * 32 * 80**3 * 2, 8 * 32 * 76**3 * 2, 32 * 32 * 125
    assert stages["convolution forward", "level 0 cbr2"].bytes == coming + going + 2 * weights
    assert stages["convolution input gradient", "level 0 cbr2"].bytes == coming + going + 2 * weights
    assert stages["convolution weight gradient", "level 0 cbr2"].bytes == coming + going + 4 * weights
    assert stages["norm + ReLU forward", "level 0 cbr2"].bytes == 3 * going
    assert stages["norm + ReLU backward", "level 0 cbr2"].bytes == 5 * going
    assert ("convolution input gradient", "level 0 cbr1") not in stages, "images ask for no gradient"


def test_the_floor_is_the_larger_of_two_times() -> None:
    ceilings = Ceilings(operations=10.0, bytes=100.0)
    assert Stage("", "", 20, 100).seconds(ceilings) == 2
    assert Stage("", "", 20, 1000).seconds(ceilings) == 10
    assert [Stage("", "", 20, size).limit(ceilings) for size in (100, 1000)] == ["arithmetic", "memory"]
    assert seconds([Stage("", "", 20, 100), Stage("", "", 20, 1000)], ceilings) == 12


def test_every_stage_has_a_known_kind() -> None:
    stages = multitask_step(PAPER, 5, 8, 2)
    assert sum(map(len, by_kind(stages).values())) == len(stages)


def test_the_page_in_docs_is_up_to_date() -> None:
    text = performance.PAGE.read_text(encoding="utf-8")
    assert performance.updated(text) == text, "python -m tests.gpu.floor --write"


def test_the_page_s_batches_are_the_paper_s() -> None:
    config = RunConfig()
    assert config.training.batch == performance.BATCH
    assert config.autoencoder.batch == performance.AUTOENCODER_BATCH
    both = MultitaskConfig()
    assert (both.batch, both.autoencoder_batch, both.levels) == performance.MULTITASK
