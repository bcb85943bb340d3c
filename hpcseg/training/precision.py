"""Where a network computes, in which precision and memory layout: the one place that decides."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from hpcseg.config import TrainingConfig

Module = TypeVar("Module", bound=nn.Module)


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(module: Module, device: torch.device) -> Module:
    """Move a network to the device with channels last, the layout in which 3D convolutions are fastest on both."""
    return module.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Context in which convolutions run; batch norm, losses and the winners' selection stay in float32."""
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
