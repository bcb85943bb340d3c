"""Which precision is taken where, what stays float32, and that runs in 16 bits resume to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpcseg.config import AutoencoderConfig, RunConfig, TrainingConfig
from hpcseg.errors import BadInput, Interrupted
from hpcseg.files import read_json
from hpcseg.networks import autoencoder as autoencoder_module
from hpcseg.networks.autoencoder import WTAutoencoder
from hpcseg.networks.fnet import FNet
from hpcseg.networks.losses import reconstruction_error, segmentation_loss
from hpcseg.networks.winners import top_winners
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.paths import HEARTBEAT_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training import update
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.precision import Precision, applied, place
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from tests.training.stopping import StopAfter, train_in_parts

CPU = torch.device("cpu")
HAS_BFLOAT16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no bfloat16 instructions")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")


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
    config = RunConfig.model_validate({"training": {"precision": "float16"}})
    with applied(config, CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_float32_is_float32_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    place(nn.Conv3d(1, 1, 1), CPU)
    assert torch.backends.cudnn.allow_tf32
    network = nn.Conv3d(1, 1, 1)
    monkeypatch.setattr(network, "to", lambda *_, **__: network)
    place(network, torch.device("cuda"))
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_inputs_are_made_in_the_type_that_convolutions_take() -> None:
    assert [Precision(CPU, number).input_dtype for number in ("float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


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
        winners = top_winners(code, *rest, **more)
        chosen.append(winners.values_BKN.dtype)
        return winners

    monkeypatch.setattr(autoencoder_module, "top_winners", spy)
    model = precision.place(WTAutoencoder(3, 4, 0.5, AutoencoderConfig(winners=2)))
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


@pytest.mark.usefixtures("emulated")
def test_a_float16_run_whose_first_steps_overflow_trains_all_the_same(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 8, "steps": 8, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}
    run, enormous = new_run("run"), 2.0**36
    monkeypatch.setattr(update, "FIRST_SCALE", enormous)
    train(run, train_spec(training=settings | {"precision": "float16"}), Control(run))
    overflows = read_json(run / "training.json")["precision"]["overflows"]
    state = load_checkpoint(run)
    assert state is not None and 3 <= overflows < 2 * 64 / 3
    assert state["update"] == {"scale": enormous / 2**overflows, "good_steps": 64 - overflows, "overflows": overflows}
    # A step that is skipped counts for no optimizer.
    moments = state["optimizers"]["segmentation"]["state"].values()
    assert {float(moment["step"]) for moment in moments} == {64.0 - overflows}
    losses = [json.loads(line)["training_loss"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]


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
    state["update"]["scale"] = 2.0**120  # some steps from here overflow
    save_checkpoint(whole, state)
    shutil.copytree(whole, parts, ignore=shutil.ignore_patterns(HEARTBEAT_FILE), dirs_exist_ok=True)
    train(whole, spec, Control(whole))
    train_in_parts(parts, spec, (1, 2, 4))
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


@needs_bfloat16
@pytest.mark.parametrize("network", [{}, {"network": {"kind": "unet", "levels": 3, "kernel": 3, "maps": (3, 4, 5)}}])
def test_images_made_in_bfloat16_train_as_those_that_convolutions_round(
    network: dict[str, Any],
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"epochs": 2, "steps": 3, "validation_steps": 1, "batch": 2, "precision": "bfloat16"}
    spec, made, rounded = train_spec(training=settings, **network), new_run("made"), new_run("rounded")
    train(made, spec, Control(made))
    monkeypatch.setattr(Precision, "input_dtype", torch.float32)
    train(rounded, spec, Control(rounded))
    assert compare(made, rounded) is None


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_has_the_same_keys_and_resumes_to_rounding(
    new_run: Callable[[str], Path],
    train_spec: Callable[..., TrainSpec],
    storm: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strategy = ("baseline", "multitask")[storm(0, 1)]  # which compiles all that the others do, and an autoencoder
    if not storm(0, 1):  # the same graphs, which g++ takes twenty seconds over
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
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
