"""The choice between torch and kernels: nothing but correct ways is taken, and nothing of the network is changed."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpcseg import kernels
from hpcseg.networks import autotune, convolution
from hpcseg.networks.autotune import Case, Compared, apply_plan, compared, fastest, plan_convolutions
from hpcseg.networks.convolution import OPERATIONS, TORCH_ALONE, Convolution, Plan
from hpcseg.networks.fnet import FNet

CPU = torch.device("cpu")
CASE = Case((1, 3, 5, 6, 7), 2, 3, torch.float32)


def network() -> FNet:
    return FNet(3, 1, [4], 1, 1.0)


def by_torch(maps: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    return convolution.convolved("torch", maps, weight)


def slowly(maps: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    time.sleep(0.005)
    return by_torch(maps, weight, gradient)


def refuse() -> None:
    raise AssertionError("nothing is to be run here")


def test_on_cpus_nothing_is_measured() -> None:
    net = network()
    record = plan_convolutions(net, refuse, CPU, torch.bfloat16)
    assert record["device"] == "cpu"
    assert list(record["convolutions"]) == [*(f"encoders.0.cbr{block}.conv" for block in (1, 2, 3)), "classifier"]
    for entry in record["convolutions"].values():
        assert entry["plan"] == {"forward": "torch", "input_gradient": "torch", "weight_gradient": "torch"}
        assert entry["left out"] == {}
        assert not any(entry["ms"].values())
    assert json.loads(json.dumps(record)) == record


def test_a_record_is_applied() -> None:
    net = network()
    record = plan_convolutions(net, refuse, CPU, torch.bfloat16)
    record["convolutions"]["encoders.0.cbr2.conv"]["plan"]["input_gradient"] = "triton wide"
    apply_plan(net, json.loads(json.dumps(record)))
    encoder = net.encoder(0)
    assert encoder.cbr2.conv.plan == Plan(input_gradient="triton wide")
    assert encoder.cbr1.conv.plan == encoder.cbr3.conv.plan == TORCH_ALONE


def test_a_record_of_another_network_is_refused() -> None:
    record: dict[str, Any] = {"convolutions": {"encoders.3.cbr1.conv": {"plan": {}}}}
    with pytest.raises(ValueError, match=r"'encoders\.3\.cbr1\.conv' in the network: it has encoders\.0"):
        apply_plan(network(), record)


def test_wrong_and_failing_ways_are_left_out() -> None:
    def fail(*_: Tensor) -> Tensor:
        raise RuntimeError("out of registers\nsecond line")

    def wrong(maps: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return by_torch(maps, weight, gradient) * 1.02

    def undefined(maps: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        result = by_torch(maps, weight, gradient)
        result[0, 0, 0, 0, 0] = float("nan")
        return result

    def small(maps: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        return by_torch(maps, weight, gradient)[:1, :1]

    ways: dict[str, autotune.Way] = {
        "broken": fail,
        "wrong": wrong,
        "undefined": undefined,
        "small": small,
        "torch": by_torch,
        "slow": slowly,
    }
    found = compared(CASE, ways, CPU)
    assert sorted(found.ms) == ["slow", "torch"]
    assert found.ms["slow"] >= 5
    assert found.left_out["broken"] == "out of registers"
    assert found.left_out["wrong"] == "differs from torch's result by 0.02"
    assert found.left_out["undefined"] == "differs from torch's result by nan"
    assert found.left_out["small"] == "differs from torch's result by inf"


def test_without_torchs_result_nothing_is_taken() -> None:
    def fail(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    found = compared(CASE, {"triton": by_torch, "torch": fail}, CPU)
    assert found.ms == {}
    assert found.left_out == {"torch": "no memory", "triton": "no result of torch's to compare with"}
    assert fastest(found.ms) == "torch"


def test_the_fastest_way_has_to_be_clearly_faster() -> None:
    assert fastest({"torch": 1.0, "triton": 0.98}) == "torch"
    assert fastest({"torch": 1.0, "triton": 0.96}) == "triton"
    assert fastest({"torch": 1.0, "triton": 0.96, "triton wide": 0.8}) == "triton wide"
    assert fastest({"torch": 1.0}) == "torch"
    assert fastest({"triton": 1.0}) == "torch"


def test_times_of_a_module_add_up_over_its_inputs() -> None:
    large = {name: Compared({"torch": 4.0, "triton": 2.0}, {}) for name in OPERATIONS}
    small = {name: Compared({"torch": 0.1, "triton": 0.3}, {"triton wide": "why"}) for name in OPERATIONS}
    found = autotune._chosen([large, small])
    assert found["plan"]["forward"] == "triton"
    assert found["ms"]["forward"] == {"torch": 4.1, "triton": 2.3}
    assert found["left out"]["forward by triton wide"] == "why"


def watched(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]
) -> tuple[dict[str, Any], list[Case]]:
    """Plan as where kernels run, with a measurement that only takes notes."""
    cases = []

    def measure(case: Case, _: torch.device) -> dict[str, Compared]:
        cases.append(case)
        return {"forward": Compared({"torch": 1.0, "triton": 0.5}, {})}

    monkeypatch.setattr(kernels, "run_on", lambda _: True)
    monkeypatch.setattr(autotune, "_measured", measure)
    return plan_convolutions(net, run, CPU, torch.bfloat16), cases


def test_shapes_are_seen_and_each_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.ModuleDict({"first": Convolution(1, 4, 3, bias=False), "twin": Convolution(4, 4, 3, bias=False)})
    net["again"] = Convolution(4, 4, 3, bias=False)
    net["biased"] = Convolution(4, 4, 3)
    net["padded"] = Convolution(4, 4, 3, padding=1, bias=False)
    image = torch.randn(2, 1, 9, 9, 9)

    def run() -> None:
        maps = net["first"](image)
        assert not maps.requires_grad
        net["twin"](maps)
        net["biased"](net["padded"](net["again"](maps)))

    record, cases = watched(net, monkeypatch, run)
    number = torch.bfloat16
    assert cases == [Case((2, 1, 9, 9, 9), 4, 3, number), *(Case((2, 4, n, n, n), 4, 3, number) for n in (7, 5))]
    plans = {name: entry["plan"]["forward"] for name, entry in record["convolutions"].items()}
    assert plans == {"first": "triton", "twin": "triton", "again": "triton", "padded": "torch"} | {"biased": "triton"}
    assert not net["first"]._forward_pre_hooks


def test_the_network_and_random_numbers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network().train()
    net.encoder(0).cbr2.norm.eval()
    state, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    before = torch.get_rng_state()
    record, cases = watched(net, monkeypatch, lambda: net([torch.ones(1, 1, 9, 9, 9)]))
    compared(CASE, {"torch": by_torch}, CPU)
    assert len(cases) == 4
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(module.plan == TORCH_ALONE for module in net.modules() if isinstance(module, Convolution))
    assert json.loads(json.dumps(record)) == record


def test_a_run_that_fails_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network().train()
    with pytest.raises(AssertionError, match="nothing is to be run"):
        watched(net, monkeypatch, refuse)
    assert net.training
    assert not net.encoder(0).cbr1.conv._forward_pre_hooks


def test_what_a_gpu_has_no_shared_memory_for_is_left_out_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def convolved(way: str, maps: Tensor, weight: Tensor) -> Tensor:
        ran.append(way)
        return functional.conv3d(maps, weight.to(maps.dtype))

    monkeypatch.setattr(convolution, "convolved", convolved)
    monkeypatch.setattr(autotune, "shared_memory", lambda _: 100 << 10)
    case = Case((1, 32, 5, 5, 5), 32, 5, torch.bfloat16)
    found = autotune._compared(case, "forward", ("torch", "triton", "triton wide"), CPU)
    assert set(ran) == {"torch", "triton"} == set(found.ms)
    assert found.left_out == {"triton wide": "takes 104 KiB of shared memory, and there are 100"}


def test_a_record_of_another_gpu_is_tried_and_torch_computes_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def convolved(way: str, maps: Tensor, weight: Tensor) -> Tensor:
        calls.append(way)
        if way == "triton wide":
            raise RuntimeError("out of resource")
        return functional.conv3d(maps, weight.to(maps.dtype))

    monkeypatch.setattr(convolution, "convolved", convolved)
    net = network()
    names = [f"encoders.0.cbr{block}.conv" for block in (1, 2, 3)]
    ways = dict(zip(names, ("triton", "triton wide", "torch"), strict=True))
    record: dict[str, Any] = {
        "device": "GPU A",
        "convolutions": {name: {"plan": {"forward": way}, "left out": {}, "ms": {}} for name, way in ways.items()},
    }
    found = autotune.tried(net, record, lambda: net([torch.ones(1, 1, 9, 9, 9)]), CPU, torch.float32)
    plans = {name: entry["plan"]["forward"] for name, entry in found["convolutions"].items()}
    assert plans == dict(zip(names, ("triton", "torch", "torch"), strict=True))
    assert found["convolutions"][names[1]]["left out"] == {"forward by triton wide": "out of resource"}
    assert found["device"] == "GPU A" and calls.count("triton wide") == 1
    assert record["convolutions"][names[1]]["plan"]["forward"] == "triton wide", "the record itself stays"


@pytest.mark.parametrize(("edge", "trial", "deterministic"), [(1, True, False), (3, False, False), (1, True, True)])
def test_trials_and_products_are_candidates_where_they_may_be(edge: int, trial: bool, deterministic: bool) -> None:
    case = Case((1, 3, 5, 6, 7), 2, edge, torch.bfloat16)
    torch.use_deterministic_algorithms(deterministic)
    try:
        with kernels.by_trial(trial):
            found = set(autotune._candidates("forward", case))
    finally:
        torch.use_deterministic_algorithms(False)
    more = {"torch by trial", "product"} if edge == 1 and not deterministic else set()
    assert found == {"torch", "triton", "triton wide"} | more


@pytest.mark.needs_gpu
def test_on_a_gpu_every_way_is_measured(kernel_device: torch.device) -> None:
    net = nn.Sequential(Convolution(1, 32, 5, bias=False), Convolution(32, 32, 5, bias=False)).to(kernel_device)
    image = torch.randn((2, 1, 40, 40, 40), device=kernel_device)
    record = plan_convolutions(net, lambda: net(image), kernel_device, torch.bfloat16)
    first, second = record["convolutions"].values()
    assert first["left out"] == second["left out"] == {}
    other = {"torch by trial", "product"}  # not without being asked for; of edge 1
    assert {name: set(ms) for name, ms in second["ms"].items()} == {
        name: set(OPERATIONS[name]) - other for name in OPERATIONS
    }
    assert first["ms"]["input_gradient"] == {}
    apply_plan(net, record)
