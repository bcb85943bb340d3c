"""Convolutions computed as planned: the same results and gradients as torch's, to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks.convolution import (
    BY_TRIAL,
    PRODUCT,
    TORCH,
    TORCH_ALONE,
    Convolution,
    Plan,
    _trying,
    convolved,
    planned_convolution,
)

PLANS = [
    Plan("triton", "triton", "triton"),
    Plan("triton wide", "torch", "torch"),
    Plan("torch", "triton", "torch"),
    Plan("torch", "torch", "triton"),
    Plan(),
]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_follow_the_plan(plan: Plan, dtype: torch.dtype, kernel_device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((2, 16, 4, 5, 6), generator=generator).to(kernel_device).requires_grad_()
    weight = torch.randn((16, 16, 3, 3, 3), generator=generator).to(kernel_device).requires_grad_()
    factor = torch.randn((2, 16, 2, 3, 4), generator=generator).to(kernel_device)
    result = planned_convolution(maps, weight, plan, dtype)
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    of_maps, of_weight = torch.autograd.grad((result.float() * factor).sum(), (maps, weight))
    assert of_maps.dtype == of_weight.dtype == torch.float32

    maps64, weight64 = (one.detach().to(dtype).double().requires_grad_() for one in (maps, weight))
    expected = functional.conv3d(maps64, weight64)
    gradients = torch.autograd.grad((expected * factor.to(dtype).double()).sum(), (maps64, weight64))
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    if kernel_device.type == "cuda" and dtype == torch.float32 and plan != PLANS[0]:
        bound = 1e-2  # torch's own may round to tf32
    assert relative(result, expected) <= bound
    assert relative(of_maps, gradients[0]) <= bound
    assert relative(of_weight, gradients[1]) <= (1e-4 if plan.weight_gradient == "triton" else bound)


def test_gradients_that_nobody_needs_are_not_computed(kernel_device: torch.device) -> None:
    image = torch.randn((1, 1, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(kernel_device)
    weight = torch.ones((2, 1, 3, 3, 3), device=kernel_device, requires_grad=True)
    plan = Plan("triton", "triton", "triton")
    planned_convolution(image, weight, plan, torch.float32).sum().backward()
    assert image.grad is None
    assert weight.grad is not None
    with torch.no_grad():
        assert not planned_convolution(image, weight, plan, torch.float32).requires_grad


def test_a_second_derivative_is_refused(kernel_device: torch.device) -> None:
    image = torch.ones((1, 16, 3, 3, 3), device=kernel_device, requires_grad=True)
    weight = torch.ones((16, 16, 3, 3, 3), device=kernel_device, requires_grad=True)
    result = planned_convolution(image, weight, Plan("triton", "triton", "triton"), torch.float32)
    (gradient,) = torch.autograd.grad((result**2).sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_edge_1_each_operation_may_be_a_product(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn((2, 5, 3, 4, 6), generator=draw).requires_grad_()
    weight = torch.randn((2, 5, 1, 1, 1), generator=draw).requires_grad_()
    factor = torch.randn((2, 2, 3, 4, 6), generator=draw)
    found = []
    for way in (PRODUCT, TORCH):
        result = planned_convolution(maps, weight, Plan(way, way, way), dtype)
        assert result.dtype == dtype
        found.append((result, *torch.autograd.grad((result.float() * factor).sum(), (maps, weight))))
    assert found[0][0].is_contiguous(memory_format=torch.channels_last_3d)
    for own, other in zip(*found, strict=True):
        assert relative(own, other) <= (1e-6 if dtype == torch.float32 else 1e-2)


def test_a_bias_is_added_to_what_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Convolution(3, 2, 1)
    image = torch.randn((1, 3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    expected = module(image)
    expected.sum().backward()
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    module.zero_grad()
    monkeypatch.setattr(kernels, "run_on", lambda _: True)
    module.plan = Plan(PRODUCT, PRODUCT, PRODUCT)
    planned = module(image)
    assert "_Planned" in type(planned.grad_fn.next_functions[0][0]).__name__
    planned.sum().backward()
    assert relative(planned, expected) <= 1e-6
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert relative(parameter.grad, gradient) <= 1e-6


def test_cudnn_tries_its_algorithms_only_where_the_way_says_so_and_bits_need_not_repeat() -> None:
    maps, weight = torch.ones(1, 1, 3, 3, 3), torch.ones(1, 1, 2, 2, 2)
    assert torch.equal(convolved(BY_TRIAL, maps, weight), convolved(TORCH, maps, weight))
    seen = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        for way in (TORCH, BY_TRIAL):
            with _trying(way):
                seen.append(torch.backends.cudnn.benchmark)
    torch.use_deterministic_algorithms(False)
    assert seen == [False, True, False, False] and not torch.backends.cudnn.benchmark


def test_on_cpus_the_plan_is_torch_alone() -> None:
    torch.manual_seed(0)
    module = Convolution(2, 3, 3, bias=False)
    plain = nn.Conv3d(2, 3, 3, bias=False)
    plain.load_state_dict(module.state_dict())
    module.plan = Plan("triton", "triton", "triton")
    image = torch.randn(1, 2, 4, 5, 6)
    assert torch.equal(module(image), plain(image))


@pytest.mark.needs_gpu
def test_on_gpus_a_module_computes_as_planned(kernel_device: torch.device) -> None:
    module = Convolution(32, 32, 5, bias=False).to(kernel_device)
    module.plan = PLANS[0]
    image = torch.randn((2, 32, 9, 10, 11), device=kernel_device, requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        planned = module(image)
        with kernels.torch_alone():
            expected = module(image)
    assert planned.dtype == expected.dtype == torch.bfloat16
    assert "_Planned" in type(planned.grad_fn).__name__
    assert "_Planned" not in type(expected.grad_fn).__name__
    assert relative(planned, expected) <= 1e-2
    ours, theirs = (
        torch.autograd.grad(one.float().pow(2).sum(), (image, module.weight)) for one in (planned, expected)
    )
    assert all(relative(mine, other) <= 2e-2 for mine, other in zip(ours, theirs, strict=True))
    assert ours[1].dtype == torch.float32


@pytest.mark.needs_gpu
def test_a_step_can_be_recorded(kernel_device: torch.device) -> None:
    module = Convolution(32, 32, 5, bias=False).to(kernel_device)
    module.plan = PLANS[0]
    image = torch.randn((1, 32, 9, 10, 11), device=kernel_device, requires_grad=True)

    def step() -> tuple[torch.Tensor, ...]:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return torch.autograd.grad(module(image).float().pow(2).sum(), (image, module.weight))

    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("module", "shape", "fits"),
    [
        (Convolution(2, 3, 3, bias=False), (1, 2, 4, 5, 6), True),
        (Convolution(2, 3, 3), (1, 2, 4, 5, 6), True),
        (Convolution(2, 3, 3, stride=2, bias=False), (1, 2, 4, 5, 6), False),
        (Convolution(2, 3, 3, padding=1, bias=False), (1, 2, 4, 5, 6), False),
        (Convolution(2, 3, (3, 3, 1), bias=False), (1, 2, 4, 5, 6), False),
        (Convolution(2, 2, 3, groups=2, bias=False), (1, 2, 4, 5, 6), False),
        (Convolution(2, 3, 17, bias=False), (1, 2, 40, 40, 40), False),
        (Convolution(2, 3, 3, bias=False), (1, 2, 4, 5, 2), False),
        (Convolution(2, 3, 3, bias=False), (2, 4, 5, 6), False),
        (Convolution(32, 32, 3, bias=False), (1, 32, 500, 500, 500), False),
    ],
)
def test_what_kernels_compute(module: Convolution, shape: tuple[int, ...], fits: bool) -> None:
    assert module.fits(shape, torch.bfloat16) is fits
    assert not module.fits(shape, torch.float64)


def test_a_plan_is_no_part_of_the_state() -> None:
    module = Convolution(2, 3, 3, bias=False)
    assert module.plan == TORCH_ALONE
    module.plan = PLANS[0]
    assert list(module.state_dict()) == ["weight"]
    assert copy.deepcopy(module).plan == PLANS[0]
    assert Convolution(2, 3, 3, bias=False).plan == TORCH_ALONE


def test_unknown_ways_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"weight_gradient by 'triton wide': .* torch, torch by trial, product, triton"
    ):
        Plan(weight_gradient="triton wide")
