"""The sparse decoder beside the dense transposed convolution, and the choice of winners beside torch.topk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hpcseg.kernels import torch_alone
from hpcseg.networks.winners import Winners, sparse_decode, top_winners
from tests.gpu.device import Timing
from tests.gpu.kit import Kit
from tests.gpu.sizes import Decoder
from tests.networks.checks import dense_decode

Decode = Callable[..., Tensor]
SETS = 3
CODES = 12  # of an autoencoder's minibatch


def measure(kit: Kit) -> None:
    """Forward and backward of the decoder; the winners of an autoencoder's code at level 0."""
    size = kit.sizes.decoder
    timed = {
        name: kit.attempt(f"decoder, {name}", partial(_decoder, kit, size, decode))
        for name, decode in (("sparse, kernels", sparse_decode), ("sparse, torch", _by_torch), ("dense", dense_decode))
    }
    ours, plain, dense = timed.values()
    rows = [[name, f"{timing.median:.3f} ms"] for name, timing in timed.items() if timing is not None]
    if ours is not None:
        kit.figure("decoder_ms", ours.median)
        if dense is not None:
            kit.figure("decoder_ratio_gpu", dense.median / ours.median)
        if plain is not None:
            kit.figure("decoder_over_torch", plain.median / ours.median)
    kit.table(
        f"Decoder, forward and backward: batch {size.batch}, {size.maps} maps, code {size.edge}³, "
        f"kernel {size.kernel}³, {size.winners} winners a map, float32",
        ["how", "median"],
        rows,
    )
    _winners(kit)


def _by_torch(*arguments: object) -> Tensor:
    with torch_alone():
        return sparse_decode(*arguments)  # type: ignore[arg-type]


def _decoder(kit: Kit, size: Decoder, decode: Decode) -> Timing:
    device, code_shape = kit.machine.device, (size.edge,) * 3
    works = []
    for seed in range(SETS):
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        winners = top_winners(random(size.batch, size.maps, *code_shape), size.winners)
        values = winners.values_BKN.detach().requires_grad_()
        weight = random(size.maps, 1, *(size.kernel,) * 3).requires_grad_()
        bias = random(1).requires_grad_()
        going = random(size.batch, 1, *(size.edge + size.kernel - 1,) * 3)
        works.append(lambda v=values, i=winners.index_BKN, w=weight, b=bias, g=going: _both(decode, v, i, w, b, g))
    return kit.machine.milliseconds(*works)


def _both(decode: Decode, values: Tensor, index: Tensor, weight: Tensor, bias: Tensor, going: Tensor) -> None:
    edge = going.shape[-1] - weight.shape[-1] + 1
    image = decode(Winners(values, index), weight, bias, (edge,) * 3)
    torch.autograd.grad(image, (values, weight, bias), going)


def _winners(kit: Kit) -> None:
    maps, edge, count = kit.sizes.layout.maps[0], kit.sizes.geometry.features[0], kit.sizes.decoder.winners
    codes = [kit.maps((CODES, maps, *(edge,) * 3), torch.bfloat16, seed).relu_() for seed in range(2)]
    ways: dict[str, Callable[[Tensor], object]] = {
        "top_winners": lambda code: top_winners(code, count),
        "torch.topk": lambda code: torch.topk(code.flatten(2), count, dim=2),
    }
    rows = []
    for name, way in ways.items():
        works = [lambda way=way, code=code: way(code) for code in codes]
        timing = kit.attempt(name, partial(kit.machine.milliseconds, *works))
        if timing is not None:
            kit.figure(f"{name.removeprefix('torch.')}_ms", timing.median)
            rate = codes[0].numel() * codes[0].element_size() / timing.median / 1e6
            rows.append([name, f"{timing.median:.3f} ms", f"{rate:,.0f} GB/s"])
    shape = "×".join(map(str, codes[0].shape))
    kit.table(f"{count} winners of each map of a code {shape}, bf16", ["how", "median", "code read at"], rows)
