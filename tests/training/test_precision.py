"""Which precision is taken where, what stays float32, and that an overflow costs one step and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.config import AutoencoderConfig, TrainingConfig
from hpcseg.errors import BadInput, Interrupted, TrainingError
from hpcseg.files import read_json
from hpcseg.networks import autoencoder as autoencoder_module
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.networks.losses import reconstruction_error, segmentation_loss
from hpcseg.networks.winners import top_winners
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.spec import TrainSpec
from hpcseg.training import stages
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.comparison import compare
from hpcseg.training.control import Control
from hpcseg.training.precision import Precision, Update, autocast
from hpcseg.training.stages import train
from tests.training.stopping import StopAfter

CPU = torch.device("cpu")
HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16 instructions")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised here is promised for CPUs."""
    monkeypatch.setattr(stages, "pick_device", lambda: CPU)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this CPU for one with float16: it computes the same, only slowly."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx512_fp16": True}))


def of(**settings: Any) -> Precision:
    return Precision.of(TrainingConfig.model_validate(settings), CPU)


def test_auto_is_float32_on_a_cpu() -> None:
    assert of().as_json() == {
        "device": "cpu",
        "convolutions": "float32",
        "loss_scaling": False,
        "compiled": False,
    }


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_a_number_type_that_would_be_emulated_is_refused_by_its_key(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({"avx2": True}))
    with pytest.raises(BadInput, match=rf"training\.precision = '{number}': this CPU .*set 'auto' or 'float32'"):
        of(precision=number)


def test_compiling_without_a_compiler_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BadInput, match=r"training\.compile = true: no C\+\+ compiler"):
        of(compile=True)


def test_a_trained_network_is_applied_in_float32_where_its_precision_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType({}))
    with autocast(TrainingConfig(precision="float16"), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@needs_bfloat16
def test_under_bfloat16_batch_norm_winners_and_losses_stay_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    precision = of(precision="bfloat16")
    geometry = FovealGeometry(8, 3, 2)
    network = precision.place(FNet(3, 2, (4, 4), 1, 0.5))
    convolved: list[torch.dtype] = []
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(lambda _m, _i, output: convolved.append(output.dtype))
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(exact_batch_norm)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 1, *[edge] * 3, generator=generator) for edge in geometry.inputs]
    with precision.autocast():
        logits = network(images)
    assert set(convolved) == {torch.bfloat16}
    loss = segmentation_loss(TrainingConfig(), logits, torch.ones(2, 8, 8, 8, dtype=torch.int64))
    loss.backward()
    assert loss.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in network.parameters() if parameter.grad is not None} == {torch.float32}

    chosen: list[torch.dtype] = []

    def spy(code: Tensor, *rest: Any, **more: Any) -> Any:
        chosen.append(code.dtype)
        return top_winners(code, *rest, **more)

    monkeypatch.setattr(autoencoder_module, "top_winners", spy)
    model = precision.place(WTAutoencoder(3, 4, 2, 0.5))
    with precision.autocast():
        found = model(images[0])
    assert chosen == [torch.float32]
    assert reconstruction_error(AutoencoderConfig(), found, images[0]).dtype == torch.float32


def exact_batch_norm(norm: nn.BatchNorm3d, inputs: tuple[Tensor], output: Tensor) -> None:
    """Compare with float64: only the rounding of the output to bfloat16 may remain, 2^-9 of it."""
    image = inputs[0].double()
    over = (0, 2, 3, 4)
    mean, variance = image.mean(over, keepdim=True), image.var(over, correction=0, keepdim=True)
    expected = (image - mean) / (variance + norm.eps).sqrt()
    assert (output.double() - expected).abs().max() <= 2.0**-8 * expected.abs().max()
    assert norm.running_var is not None and norm.running_var.dtype == torch.float32
    unbiased = image.var(over)
    assert torch.allclose(norm.running_var.double(), 0.9 + 0.1 * unbiased, rtol=1e-5)


def scaled_pair() -> tuple[nn.Parameter, nn.Parameter, Update]:
    """Two weights with an optimizer each, and their update in float16."""
    weights = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizers = {name: torch.optim.Adam([w], lr=0.1) for name, w in zip("ab", weights, strict=True)}
    return *weights, Update(Precision(CPU, "float16"), optimizers)


def test_an_overflow_skips_the_step_of_every_optimizer_and_is_counted() -> None:
    a, b, update = scaled_pair()
    huge = 3e38  # finite, but not times 65536
    assert not update((a * huge).sum() + b.sum())
    assert torch.equal(a, torch.ones(3)) and torch.equal(b, torch.ones(3))
    assert update.overflows == 1
    assert update.state()["scaler"]["scale"] == 32768.0
    assert update(a.sum() + b.sum())
    assert torch.allclose(a, torch.full((3,), 0.9)) and torch.allclose(b, torch.full((3,), 0.9))


def test_scaled_steps_are_the_unscaled_ones() -> None:
    a, b, update = scaled_pair()
    plain = nn.Parameter(torch.ones(3))
    other = Update(Precision(CPU), {"a": torch.optim.Adam([plain], lr=0.1)})
    for step in range(5):
        update((a**2 * (step + 1)).sum() + b.sum())
        other((plain**2 * (step + 1)).sum())
    assert torch.equal(a, plain)  # a power of two changes no digit
    assert other.state() == {"scaler": {}, "overflows": 0}


def test_a_restored_scale_goes_on_as_the_one_that_was_saved() -> None:
    a, b, update = scaled_pair()
    for _ in range(3):
        update((a * 3e38).sum() + b.sum())
    update(a.sum() + b.sum())
    _, _, other = scaled_pair()
    other.restore(update.state())
    assert other.state() == update.state()
    assert (other.overflows, other.state()["scaler"]["_growth_tracker"]) == (3, 1)


def test_gradients_that_are_never_finite_end_the_run() -> None:
    a, b, update = scaled_pair()
    with pytest.raises(TrainingError, match=r"the last checkpoint is kept; set training\.precision"):
        for _ in range(20):
            update((a * float("inf")).sum() + b.sum())
    assert torch.equal(a, torch.ones(3))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
def test_a_float16_run_with_overflows_resumes_to_the_bit(
    strategy: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    settings = {"epochs": 3, "steps": 6, "validation_steps": 1, "batch": 2, "precision": "float16"}
    spec = train_spec(strategy, training=settings)
    whole, parts = new_run("whole"), new_run("parts")
    with pytest.raises(Interrupted):
        train(whole, spec, StopAfter(whole, 2))
    state = load_checkpoint(whole)
    assert state is not None
    state["update"]["scaler"]["scale"] = 2.0**120  # some steps from here overflow
    save_checkpoint(whole, state)
    shutil.copytree(whole, parts, dirs_exist_ok=True)
    train(whole, spec, Control(whole))
    for steps in (1, 2, 4):
        with pytest.raises(Interrupted):
            train(parts, spec, StopAfter(parts, steps))
    train(parts, spec, Control(parts))
    assert compare(whole, parts) is None
    recorded = read_json(parts / "training.json")["precision"]
    assert recorded["convolutions"] == "float16" and recorded["loss_scaling"]
    assert recorded["overflows"] == read_json(whole / "training.json")["precision"]["overflows"] > 0


@needs_bfloat16
@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
def test_a_bfloat16_run_resumes_to_the_bit_and_says_what_it_was(
    strategy: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    settings = {"epochs": 2, "steps": 4, "validation_steps": 1, "batch": 2}
    spec = train_spec(strategy, training=settings | {"precision": "bfloat16"})
    whole, parts, exact = new_run("whole"), new_run("parts"), new_run("exact")
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(parts, spec, StopAfter(parts, 3))
    train(parts, spec, Control(parts))
    assert compare(whole, parts) is None
    assert read_json(whole / "training.json")["precision"]["convolutions"] == "bfloat16"
    train(exact, train_spec(strategy, training=settings), Control(exact))
    assert compare(whole, exact) is not None


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("strategy", ["multitask"])  # compiles all that the others do
def test_a_compiled_run_has_the_same_keys_and_resumes_to_rounding(
    strategy: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    settings = {"epochs": 2, "steps": 3, "validation_steps": 1, "batch": 2}
    small: dict[str, Any] = {"network": {"levels": 1, "kernel": 3, "maps": 2}, "multitask": {"levels": 1, "batch": 2}}
    spec = train_spec(strategy, training=settings | {"compile": True}, **small)
    whole, parts, plain = new_run("whole"), new_run("parts"), new_run("plain")
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(parts, spec, StopAfter(parts, 4))
    train(parts, spec, Control(parts))
    assert read_json(whole / "training.json")["precision"]["compiled"]
    train(plain, train_spec(strategy, training=settings, **small), Control(plain))
    states = [load_checkpoint(run) for run in (whole, parts, plain)]
    assert all(states)
    expected, resumed, uncompiled = (state["modules"] for state in states if state is not None)
    for name, weights in expected.items():
        assert list(weights) == list(uncompiled[name])
        assert all(torch.allclose(resumed[name][key], weights[key], rtol=1e-4, atol=1e-6) for key in weights)
        assert all(torch.allclose(uncompiled[name][key], weights[key], atol=1e-3) for key in weights)
