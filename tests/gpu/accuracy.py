"""How far results on the device are from float64's: the largest relative error seen, ‖out − ref‖ / ‖ref‖.

The kernels' tests check each one closely; this puts numbers on the page, through the functions that networks call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hpcseg.kernels import torch_alone
from hpcseg.networks.convolution import Convolution, Plan
from hpcseg.networks.losses import dice_ce
from hpcseg.networks.merging import merged
from hpcseg.networks.normalisation import norm_relu
from hpcseg.networks.winners import Winners, sparse_decode, top_winners
from tests.gpu.kit import Kit

SEEDS = 3
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
Outputs = Sequence[Tensor]
Inputs = Callable[[Kit, torch.Generator], list[Tensor]]
References = dict[tuple[Inputs, torch.dtype, int], Outputs]  # of float64, by inputs, their type and seed
Computation = Callable[[Sequence[Tensor]], Outputs]  # of leaves, in their dtype; outputs and gradients


def measure(kit: Kit) -> None:
    """Every operation in every type; on the same rounded inputs, so that only the arithmetic differs."""
    rows = []
    known: References = {}
    cases: dict[str, tuple[Inputs, Callable[[Kit], Computation]]] = {
        "convolution, torch": (_convolution_inputs, lambda _: _convolution(Plan())),
        "convolution, Triton": (_convolution_inputs, lambda _: _convolution(Plan("triton", "triton", "triton"))),
        "convolution, Triton, wide": (
            _convolution_inputs,
            lambda _: _convolution(Plan("triton wide", "triton wide", "triton")),
        ),
        "batch norm + ReLU": (_norm_inputs, lambda kit: _norm),
        "merging": (_merge_inputs, lambda kit: _merge),
        "Dice-CE": (_loss_inputs, lambda kit: _loss),
        "winners and decoder": (_decoder_inputs, lambda kit: _decoder),
    }
    for name, (inputs, computation) in cases.items():
        for dtype, bound in BOUNDS.items():
            what = f"{name}, {str(dtype).removeprefix('torch.')}"
            if name.startswith("winners") and dtype != torch.float32:
                continue
            worst = kit.attempt(what, partial(_worst, kit, inputs, computation, dtype, known))
            if worst is None:
                continue
            held = worst <= bound
            rows.append([what, f"{worst:.1e}", f"{bound:.0e}", "yes" if held else "**no**"])
            if not held and not name.endswith("torch"):
                kit.found.failed.append(f"{what}: relative error {worst:.1e} is above {bound:.0e}")
    kit.table(
        "Errors against float64",
        ["operation and type of its input", "largest relative error", "bound", "met"],
        rows,
        f"Results and gradients, {SEEDS} sets of random inputs, every output by itself.",
    )


def _worst(
    kit: Kit, inputs: Inputs, made: Callable[[Kit], Computation], dtype: torch.dtype, known: References
) -> float:
    """The largest error of any output over all seeds; `known` remembers the references."""
    worst, compute = 0.0, made(kit)
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        rounded = [tensor.to(dtype) for tensor in inputs(kit, generator)]
        key = (inputs, dtype, seed)
        if key not in known:
            with torch_alone():
                known[key] = [out.detach() for out in compute([tensor.double() for tensor in rounded])]
        found = compute([tensor.to(kit.machine.device) for tensor in rounded])
        for out, reference in zip(found, known[key], strict=True):
            error = relative_error(out.detach().cpu(), reference)
            worst = error if math.isnan(error) else max(worst, error)
            if math.isnan(worst):
                return math.inf
    return worst


def relative_error(out: Tensor, reference: Tensor) -> float:
    """‖out − ref‖ / ‖ref‖ in float64; NaN where something is not a number."""
    whole = float(reference.double().norm())
    return float((out.double() - reference.double()).norm()) / (whole or 1.0)


def _with_gradients(out: Tensor, leaves: Sequence[Tensor]) -> Outputs:
    """The result and the gradients by the leaves, of a fixed random direction that every type can hold."""
    going = torch.randint(-4, 5, out.shape, generator=torch.Generator().manual_seed(99)).to(out.device, out.dtype)
    return [out, *torch.autograd.grad(out, leaves, going)]


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """In the layout of the networks, asking for gradients."""
    laid = [one.contiguous(memory_format=torch.channels_last_3d) if one.dim() == 5 else one for one in tensors]
    return [one.detach().requires_grad_() for one in laid]


def _convolution_inputs(kit: Kit, generator: torch.Generator) -> list[Tensor]:
    batch, edge = kit.sizes.accuracy
    kernel, maps = kit.sizes.geometry.kernel, kit.sizes.layout.maps[0]
    weight = torch.randn((maps, maps, *(kernel,) * 3), generator=generator) / (maps * kernel**3) ** 0.5
    return [torch.randn((batch, maps, *(edge,) * 3), generator=generator), weight]


def _convolution(plan: Plan) -> Computation:
    def compute(tensors: Sequence[Tensor]) -> Outputs:
        x, weight = _leaves(tensors)
        maps, _, kernel, *_ = weight.shape
        module = Convolution(maps, maps, kernel, bias=False).to(x.device)
        # As in training: weights of 32 bits, which autocast rounds.
        module.weight = nn.Parameter(weight.detach() if x.dtype == torch.float64 else weight.detach().float())
        if x.dtype != torch.float64:
            module.plan = plan
        half = x.dtype if x.dtype in (torch.float16, torch.bfloat16) else torch.bfloat16
        with torch.autocast(x.device.type, dtype=half, enabled=x.dtype == half):
            out = module(x)
        return _with_gradients(out, (x, module.weight))

    return compute


def _norm_inputs(kit: Kit, generator: torch.Generator) -> list[Tensor]:
    batch, edge = kit.sizes.accuracy
    maps = kit.sizes.layout.maps[0]
    x = torch.randn((batch, maps, *(edge,) * 3), generator=generator) + 0.5
    return [x, torch.rand(maps, generator=generator) + 0.5, torch.randn(maps, generator=generator)]


def _norm(tensors: Sequence[Tensor]) -> Outputs:
    x, weight, bias = _leaves(tensors)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm = nn.BatchNorm3d(len(weight)).to(x.device, kind)
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    out = norm_relu(norm, x.clone())
    return _with_gradients(out, (x, norm.weight, norm.bias))


def _merge_inputs(kit: Kit, generator: torch.Generator) -> list[Tensor]:
    batch, edge = kit.sizes.accuracy
    maps = kit.sizes.layout.maps[0]
    coarse = torch.randn((batch, maps, *((edge + 1) // 2,) * 3), generator=generator)
    return [torch.randn((batch, maps, *(edge - 1,) * 3), generator=generator), coarse]


def _merge(tensors: Sequence[Tensor]) -> Outputs:
    leaves = _leaves(tensors)
    return _with_gradients(merged(*leaves), leaves)


def _loss_inputs(kit: Kit, generator: torch.Generator) -> list[Tensor]:
    batch, edge = kit.sizes.accuracy
    return [
        torch.randn((batch, 2, *(edge,) * 3), generator=generator),
        (torch.rand((batch, *(edge,) * 3), generator=generator) < 0.3).float(),
    ]


def _loss(tensors: Sequence[Tensor]) -> Outputs:
    (logits,) = _leaves(tensors[:1])
    loss = dice_ce(logits, tensors[1].long()) if logits.dtype != torch.float64 else _dice_ce_64(logits, tensors[1])
    return [loss, *torch.autograd.grad(1024 * loss, logits)]  # scaled, as float16 needs it


def _dice_ce_64(logits_BCDHW: Tensor, label_BDHW: Tensor) -> Tensor:
    """`dice_ce` by its definition, in float64: the function itself computes in float32."""
    log_probability = nn.functional.log_softmax(logits_BCDHW, dim=1)
    truth = torch.stack((label_BDHW == 0, label_BDHW == 1), dim=1).double()
    probability, positive = log_probability[:, 1].exp(), truth[:, 1]
    dice = (2 * (probability * positive).sum() + 1e-5) / (probability.sum() + positive.sum() + 1e-5)
    return 1 - dice - (truth * log_probability).sum(dim=1).mean()


def _decoder_inputs(kit: Kit, generator: torch.Generator) -> list[Tensor]:
    size, (batch, edge) = kit.sizes.decoder, kit.sizes.accuracy
    code = torch.randn((batch, size.maps, *(edge,) * 3), generator=generator)
    weight = torch.randn((size.maps, 1, *(size.kernel,) * 3), generator=generator)
    return [code, weight, torch.randn(1, generator=generator)]


def _decoder(tensors: Sequence[Tensor]) -> Outputs:
    code, weight, bias = _leaves(tensors)
    values, index = top_winners(code, 5)
    edge = code.shape[-1]
    image = sparse_decode(Winners(values, index), weight, bias, (edge,) * 3)
    return _with_gradients(image, (code, weight, bias))
