"""Where a network computes, in which precision and memory layout: the one place that decides.

Convolutions run in the chosen number type under autocast. Weights, their gradients, batch norms' statistics and
arithmetic, the winners' selection and all losses are float32 in every case. float32 is float32: on a GPU, torch's
TensorFloat-32, whose products keep 10 bits of 23 and which it uses in convolutions unless told otherwise, is off.

`torch.backends.cudnn.benchmark` stays off, as torch has it: cuDNN would choose algorithms by timing, in every attempt
anew, and a resumed run would round otherwise. What is chosen by timing here is written down
(`hpcseg.training.kernel_choice`); cuDNN's own trials are part of that for those who ask (`hpcseg.kernels.by_trial`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import nn

from hpcseg.errors import BadInput

if TYPE_CHECKING:
    from hpcseg.config import RunConfig, TrainingConfig

Module = TypeVar("Module", bound=nn.Module)
Number = Literal["float32", "bfloat16", "float16"]

# By `torch.cpu.get_capabilities`: instructions without which oneDNN's convolutions only emulate a number type.
_CPU_INSTRUCTIONS: Mapping[Number, tuple[str, ...]] = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(module: Module, device: torch.device) -> Module:
    """Move a network to the device with channels last, the layout in which 3D convolutions are fastest on both.

    From then on this process computes float32 in float32.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
    return module.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]


def be_deterministic() -> None:
    """Make this process give the same bits again, before it computes anything; on a GPU this costs time.

    On a CPU it does anyway.
    """
    if pick_device().type == "cpu":
        return
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


@dataclass(frozen=True)
class Precision:
    """What was decided for the networks of one process: the convolutions' number type, and whether they are compiled.

    Only float16 needs its loss scaled: its gradients would vanish below 6e-8, those of bfloat16 reach 1e-38.
    """

    device: torch.device
    convolutions: Number = "float32"
    compiled: bool = False

    @classmethod
    def of(cls, config: TrainingConfig, device: torch.device) -> Precision:
        """Precision of a training on `device`; "auto" is bfloat16 on GPUs that have it, else float32.

        Raises:
            BadInput: the device only emulates the number type asked for; there is no compiler to compile with.
        """
        number = _resolved(config, device)
        if not _has(device, number):
            what = "GPU" if device.type == "cuda" else "CPU"
            others = [other for other in ("bfloat16", "float16") if other != number and _has(device, other)]
            remedy = " or ".join(f"'{other}'" for other in ("auto", *others, "float32"))
            raise BadInput(f"training.precision = '{number}': this {what} has no instructions for it; set {remedy}")
        if config.compile and not _compiler():
            raise BadInput("training.compile = true: no C++ compiler here; install g++ or set training.compile = false")
        return cls(device, number, config.compile)

    @property
    def input_dtype(self) -> torch.dtype:
        """In which convolutions take their input: what only they read may be made in it."""
        dtype: torch.dtype = getattr(torch, self.convolutions)
        return dtype

    def autocast(self) -> torch.autocast:
        """Context in which the networks run."""
        number = torch.float16 if self.convolutions == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=number, enabled=self.convolutions != "float32")

    def place(self, module: Module) -> Module:
        """Move a network to be trained to the device, and compile its forward if wanted; its state's keys stay."""
        placed = place(module, self.device)
        if self.compiled:
            placed.compile(dynamic=False)  # sizes never change, and torch's shape guessing fails on the decoders
        return placed

    def as_json(self) -> dict[str, Any]:
        """What the record of a run says about it."""
        return {
            "device": self.device.type,
            "convolutions": self.convolutions,
            "loss_scaling": self.convolutions == "float16",
            "compiled": self.compiled,
        }


def applied(config: RunConfig, device: torch.device, number: Number | None = None) -> Precision:
    """Precision of a trained network that is applied: `number`, or as it is configured; float32 on a device without it.

    >>> from hpcseg.config import RunConfig
    >>> applied(RunConfig(), torch.device("cpu")).convolutions
    'float32'
    """
    if number is None:
        asked = config.inference.precision
        number = _resolved(config.training, device) if asked == "trained" else asked
    return Precision(device, number if _has(device, number) else "float32")


def _resolved(config: TrainingConfig, device: torch.device) -> Number:
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if device.type == "cuda" and _has(device, "bfloat16") else "float32"


def _has(device: torch.device, number: Number) -> bool:
    """Whether the device computes with the number type itself."""
    if number == "float32":
        return True
    if device.type == "cuda":
        return number == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in _CPU_INSTRUCTIONS[number])


def _compiler() -> bool:
    """Whether torch.compile finds a C++ compiler, by the names it looks for."""
    return any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))
