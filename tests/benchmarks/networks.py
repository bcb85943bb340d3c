"""Figures of the room `networks`: the sparse decoder, and the F-Net's training step beside a U-Net's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hpcseg.networks.fnet import FNet
from hpcseg.networks.losses import dice_ce
from hpcseg.networks.unet import UNet
from hpcseg.networks.winners import Winners, sparse_decode, top_winners
from hpcseg.patches.geometry import FovealGeometry, PaddedGeometry, PatchGeometry
from hpcseg.training.precision import place
from tests.benchmarks.figures import Figure, Measured, at_least, benchmark
from tests.benchmarks.timing import PeakMemory, fastest, interleaved, two_threads
from tests.gpu.floor import Ceilings, Shape, fnet_step
from tests.gpu.floor import seconds as floor_seconds
from tests.networks.checks import dense_decode

PATCH = 64
FNET_MAPS = (32, 32, 32, 32)
UNET_MAPS = (32, 64, 128, 256)


@benchmark(
    Figure(
        "decoder_ratio",
        "speed of the sparse decoder over the dense transposed convolution",
        "×",
        "forward and backward (values, weight, bias) of 5 winners in each map of a code 2×32×60³, kernel 13, float32, "
        "two threads; ten calls of `sparse_decode` and one `conv_transpose3d` of the scattered code in turn, 3 rounds; "
        "fastest round by fastest round, per call",
        at_least(50),
    ),
)
def decoder() -> Measured:
    """Stamps of the winners against the transposed convolution that they equal."""
    code_shape = (60, 60, 60)
    generator = torch.Generator().manual_seed(0)
    winners = top_winners(torch.randn(2, 32, *code_shape, generator=generator), 5)
    values = winners.values_BKN.requires_grad_()
    weight = torch.randn(32, 1, 13, 13, 13, generator=generator).requires_grad_()
    bias = torch.zeros(1).requires_grad_()
    upstream = torch.randn(2, 1, 72, 72, 72, generator=generator)

    def work(decode: Callable[..., Tensor]) -> None:
        image = decode(Winners(values, winners.index_BKN), weight, bias, code_shape)
        torch.autograd.grad(image, (values, weight, bias), upstream)

    def ten_sparse() -> None:
        for _ in range(10):
            work(sparse_decode)

    with two_threads():
        ten_sparse()  # torch's threads have started
        timed = interleaved(3, ten_sparse, lambda: work(dense_decode), warm=False)
    sparse, dense = fastest(timed, 0) / 10, fastest(timed, 1)
    return Measured(
        {"decoder_ratio": dense / sparse}, {"fastest": f"sparse {1e3 * sparse:.1f} ms, dense {dense:.2f} s"}
    )


@benchmark(
    Figure(
        "fnet_vs_unet",
        "speed of the F-Net's training step over a U-Net's that sees as much",
        "×",
        "forward, Dice-CE, backward and Adam for one target of 64³, float32, channels last, two threads: F-Net (k 5, "
        "four levels of 32 maps) and `UNet` (k 3, 32 to 256 maps, input 128³) in turn, 2 rounds after an untimed one; "
        "fastest step by fastest step",
        at_least(4),
    ),
)
def training_step() -> Measured:
    """Seconds of one training step of either network, on random images in memory."""
    foveal, padded = FovealGeometry(PATCH, 5, 4), PaddedGeometry.around(PATCH, 4)
    fnet = FNet(5, 4, FNET_MAPS, 1, 0.01)
    unet = UNet(3, UNET_MAPS, 1, padded.margin, 0.01)
    with two_threads():
        works = [_step(fnet, foveal), _step(unet, padded)]
        with PeakMemory() as peak:
            timed = interleaved(2, *works)
    own, other = fastest(timed, 0), fastest(timed, 1)
    macs = [_multiply_adds(network, geometry) for network, geometry in ((fnet, foveal), (unet, padded))]
    return Measured(
        {"fnet_vs_unet": other / own},
        {
            "seconds per step, fastest": f"F-Net {own:.2f}, U-Net {other:.2f}",
            "multiply-adds forward": f"F-Net {macs[0]:.1f} G, U-Net {macs[1]:.1f} G: {macs[1] / macs[0]:.2f} ×",
            "parameters": f"F-Net {_parameters(fnet):,}, U-Net {_parameters(unet):,}",
            "peak memory of both": f"{peak.bytes / 1e9:.1f} GB",
        },
    )


@benchmark(
    Figure(
        "cpu_step_gap",
        "F-Net's training step on a CPU over its floor",
        "×",
        "float32, two threads, one target of 64³, as in `fnet_vs_unet`; the floor is that of `tests/gpu/floor.py` with "
        "two ceilings measured in turn with the step: a matrix product of 2048³ (by torch.mm and as a 1×1 convolution, "
        "which take different libraries) and a copy of 256 MB (read plus written); the fastest of 3 steps, 12 products "
        "of each kind and 12 copies",
    ),
)
def floor() -> Measured:
    """The only device whose step was held against its floor so far."""
    found = {}
    with two_threads():
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            if dtype == torch.float32 or torch.cpu.get_capabilities().get("avx512_bf16", False):
                found[name] = _beside_its_floor(dtype)
    details = {
        name: f"{limits.operations / 1e9:,.0f} GFLOP/s, {limits.bytes / 1e9:.1f} GB/s; step {took:.2f} s, "
        f"floor {least:.2f} s: {took / least:.2f} ×"
        for name, (took, least, limits) in found.items()
    }
    took, least, _ = found["float32"]
    return Measured({"cpu_step_gap": took / least}, details)


def products(dtype: torch.dtype) -> tuple[list[Callable[[], object]], float]:
    """Two ways to the same product of 2048³, which take different libraries, and its operations."""
    edge = 2048
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(edge, edge, generator=generator).to(dtype) for _ in range(2))
    image = left.view(1, edge, edge // 32, 32).contiguous(memory_format=torch.channels_last)
    kernel = right.view(edge, edge, 1, 1)
    return [lambda: torch.mm(left, right), lambda: nn.functional.conv2d(image, kernel)], 2 * edge**3


def _beside_its_floor(dtype: torch.dtype) -> tuple[float, float, Ceilings]:
    """Seconds of a step, its floor, and the ceilings."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (256_000_000,), dtype=torch.uint8, generator=generator)
    target = torch.empty_like(source)
    geometry = FovealGeometry(PATCH, 5, 4)
    step = _step(FNet(5, 4, FNET_MAPS, 1, 0.01), geometry, dtype)
    multiply, operations = products(dtype)
    timed = interleaved(3, step, *multiply * 4, *[lambda: target.copy_(source)] * 4)
    fastest_product, fastest_copy = (min(fastest(timed, n) for n in own) for own in (range(1, 9), range(9, 13)))
    limits = Ceilings(operations / fastest_product, 2 * len(source) / fastest_copy)
    stages = [
        stage for stage in fnet_step(Shape(geometry, FNET_MAPS, half=dtype.itemsize), 1) if stage.kind != "gather"
    ]
    return fastest(timed, 0), floor_seconds(stages, limits), limits


def _step(network: nn.Module, geometry: PatchGeometry, dtype: torch.dtype = torch.float32) -> Callable[[], None]:
    """One training step of a network on one target that does not change."""
    place(network, torch.device("cpu")).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4, weight_decay=3e-5)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 1, edge, edge, edge, generator=generator) for edge in geometry.inputs]
    label = torch.randint(2, (1, *(geometry.patch,) * 3), generator=generator)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(images)
        dice_ce(logits, label).backward()
        optimizer.step()

    return step


def _multiply_adds(network: nn.Module, geometry: PatchGeometry) -> float:
    """Giga multiply-adds of one target's way through a network, counted by torch without computing anything."""
    images = [torch.empty(1, 1, edge, edge, edge, device="meta") for edge in geometry.inputs]
    with FlopCounterMode(display=False) as counter:
        network.to("meta").eval()(images)
    return counter.get_total_flops() / 2e9


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
