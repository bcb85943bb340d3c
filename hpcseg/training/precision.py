"""Where a network computes and in which precision: the one place that decides."""

from __future__ import annotations

import torch

from hpcseg.config import TrainingConfig


def pick_device() -> torch.device:
    """The GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Context in which convolutions run; batch norm, losses and the winners' selection stay in float32."""
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
