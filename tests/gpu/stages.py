"""The stages of the F-Net's training step, each timed alone beside its floor: where the step's time goes.

Maps are random, of 16 bits and channels last as in training, and not in the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from hpcseg.networks.fnet import CBR, FNet
from hpcseg.networks.losses import segmentation_loss
from hpcseg.networks.merging import merged
from hpcseg.networks.normalisation import norm_relu
from hpcseg.training.update import adam
from tests.gpu import ceilings, planning
from tests.gpu.convolutions import NUMBER, convolution_works, without_gradient
from tests.gpu.floor import Layer, Stage, by_kind, fnet_step
from tests.gpu.kit import Kit
from tests.gpu.loading import labelled_sources
from tests.gpu.material import configured, random_batch
from tests.gpu.steps import segmentation_task

Works = Sequence[Callable[[], object]]
SETS = 2
PASSES = (
    "convolution forward",
    "convolution input gradient",
    "convolution weight gradient",
    "norm + ReLU forward",
    "norm + ReLU backward",
)


def measure(kit: Kit) -> None:
    """Time every stage; the gap is the time measured by the floor."""
    shape, batch = kit.sizes.shape(), kit.sizes.batch
    with ExitStack() as stack:
        task = segmentation_task(kit, labelled_sources(kit, stack))
        kit.attempt("choice of kernels", lambda: planning.plan(kit, task))
    network = task.network
    assert isinstance(network, FNet)
    network.train()
    times: dict[Stage, float] = {}
    for stage in fnet_step(shape, batch):
        works = kit.attempt(f"{stage.kind}, {stage.name}", partial(_works, kit, network, stage))
        if works is not None:
            timing = kit.attempt(f"{stage.kind}, {stage.name}", partial(kit.machine.milliseconds, *works))
            del works
            if timing is not None:
                times[stage] = timing.median / 1e3
    gather = kit.known("gather_ms")
    if gather is not None:
        times |= {stage: gather / 1e3 for stage in fnet_step(shape, batch) if stage.kind == "gather"}
    _report(kit, times)


def _report(kit: Kit, times: dict[Stage, float]) -> None:
    limits = ceilings.known(kit)
    if limits is None:
        kit.say("no gaps without both ceilings")
        return
    measured = {kind: [stage for stage in own if stage in times] for kind, own in by_kind(list(times)).items()}
    rows = []
    for kind, own in measured.items():
        took, floor = sum(times[stage] for stage in own), sum(stage.seconds(limits) for stage in own)
        moved, work = sum(stage.bytes for stage in own), sum(stage.operations for stage in own)
        limit = "arithmetic" if work / limits.operations > moved / limits.bytes else "memory"
        rows.append([kind, f"{work / 1e9:,.0f}", f"{moved / 1e9:.2f}", limit, *_gap(took, floor)])
    took, floor = sum(times.values()), sum(stage.seconds(limits) for stage in times)
    if times:
        rows.append(["**all of these**", "", "", "", *_gap(took, floor)])
        kit.figure("stages_ms", 1e3 * took)
        kit.figure("floor_ms", 1e3 * floor)
    kit.table(
        "Stages of the training step (bf16)",
        ["stage", "GFLOP", "GB", "floor set by", "floor, ms", "measured, ms", "gap"],
        rows,
        "Each stage alone, caches cold. The gap is measured time by floor.",
    )
    layers = dict.fromkeys(stage.name for stage in times if stage.kind in PASSES)
    found = {(stage.kind, stage.name): (seconds, stage.seconds(limits)) for stage, seconds in times.items()}
    kit.table(
        "Stages by layer: ms (gap)",
        ["layer", *PASSES],
        [[name, *(_cell(found.get((kind, name))) for kind in PASSES)] for name in layers],
    )


def _gap(took: float, floor: float) -> list[str]:
    return [f"{1e3 * floor:.3f}", f"{1e3 * took:.3f}", f"{took / floor:.1f} ×"]


def _cell(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{1e3 * found[0]:.3f} ({found[0] / found[1]:.1f} ×)"


def _works(kit: Kit, network: FNet, stage: Stage) -> Works | None:
    """The work of a stage on several inputs; None for what is timed elsewhere."""
    shape = kit.sizes.shape()
    if stage.kind in PASSES:
        layer = next(layer for layer in shape.layers if layer.name == stage.name)
        block = _block(network, layer)
        if stage.kind.startswith("norm"):
            return list(norm_works(kit, block.norm, layer, backward=stage.kind.endswith("backward")))
        return list(convolution_works(kit, block.conv, layer, stage.kind.removeprefix("convolution ")))
    if stage.kind == "merge":
        return list(_merge_works(kit, stage.name))
    if stage.kind == "classifier":
        layer = Layer("classifier", shape.classifier_inputs, shape.channels, 1, shape.geometry.patch)
        return list(convolution_works(kit, network.classifier, layer, stage.name))
    if stage.kind == "loss":
        return list(_loss_works(kit, backward=stage.name == "backward"))
    return [_adam_work(kit, network)] if stage.kind == "Adam" else None


def _block(network: FNet, layer: Layer) -> CBR:
    """Where a layer stands in the network."""
    _, level, part = layer.name.split()
    block = (
        network.integrations[int(level) - 1] if part == "integration" else getattr(network.encoder(int(level)), part)
    )
    assert isinstance(block, CBR)
    return block


def norm_works(kit: Kit, norm: nn.BatchNorm3d, layer: Layer, *, backward: bool) -> Iterator[Callable[[], object]]:
    """Batch norm with ReLU, one way."""
    shape = (kit.sizes.batch, layer.maps, *(layer.out,) * 3)
    for seed in range(SETS):
        leaf = kit.maps(shape, NUMBER, seed)
        if not backward:
            yield without_gradient(partial(norm_relu, norm, leaf))
            continue
        leaf.requires_grad_()
        yield _backward(norm_relu(norm, leaf.clone()), (leaf, norm.weight, norm.bias), kit, SETS + seed)


def _merge_works(kit: Kit, name: str) -> Iterator[Callable[[], object]]:
    shape, batch = kit.sizes.shape(), kit.sizes.batch
    level, backward = int(name.split()[1]), name.endswith("backward")
    edge, coarse_edge = shape.geometry.features[level - 1], shape.integration(level).out
    for seed in range(SETS):
        fine = kit.maps((batch, shape.maps[level - 1], *(edge,) * 3), NUMBER, seed)
        coarse = kit.maps((batch, shape.maps[level], *(coarse_edge,) * 3), NUMBER, SETS + seed)
        if not backward:
            yield without_gradient(partial(merged, fine, coarse))
            continue
        leaves = fine.requires_grad_(), coarse.requires_grad_()
        yield _backward(merged(*leaves), leaves, kit, 2 * SETS + seed)


def _loss_works(kit: Kit, *, backward: bool) -> Iterator[Callable[[], object]]:
    config, device = kit.sizes.config.training, kit.machine.device
    for seed in range(SETS):
        label = random_batch(kit.sizes, config.batch, NUMBER, device, seed).label_BDHW
        assert label is not None
        logits = kit.maps((config.batch, 2, *label.shape[1:]), NUMBER, seed)
        if not backward:
            yield without_gradient(partial(segmentation_loss, config, logits, label))
            continue
        loss = segmentation_loss(config, logits.requires_grad_(), label)
        yield partial(torch.autograd.grad, loss, logits, retain_graph=True)


def _adam_work(kit: Kit, network: FNet) -> Callable[[], object]:
    optimizer = adam(configured(kit.sizes.config), [{"params": list(network.parameters()), "lr": 3e-4}])
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return optimizer.step


def _backward(out: Tensor, wanted: Sequence[Tensor], kit: Kit, seed: int) -> Callable[[], object]:
    going = kit.maps(tuple(out.shape), out.dtype, seed)
    return lambda: torch.autograd.grad(out, wanted, going, retain_graph=True)
