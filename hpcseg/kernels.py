"""Whether hpcseg's own GPU kernels (Triton) compute, or torch alone: every function with a kernel asks here.

Kernels stand in modules of their own, which import Triton and are imported only where they run. Beside each stands the
same in torch: for CPUs, for GPUs without Triton, and as what the kernel is tested against.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_torch_alone: ContextVar[bool] = ContextVar("torch_alone", default=False)


def run_on(device: torch.device) -> bool:
    """Whether kernels are to be used for tensors on `device`; not in what torch.compile makes kernels of itself.

    To be asked in forward passes only: backward passes run in threads of torch's, and do as their forward did.
    """
    return device.type == "cuda" and not torch.compiler.is_compiling() and _HAS_TRITON and not _torch_alone.get()


@contextmanager
def torch_alone(wanted: bool = True) -> Iterator[None]:
    """Meanwhile use no kernel in this thread, if `wanted`."""
    token = _torch_alone.set(_torch_alone.get() or wanted)
    try:
        yield
    finally:
        _torch_alone.reset(token)
