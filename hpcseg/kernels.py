"""Whether hpcseg's own GPU kernels (Triton) compute, or torch alone: every function with a kernel asks here.

Kernels stand in modules of their own, which import Triton and are imported only where they run. Beside each stands the
same in torch: for CPUs, for GPUs without Triton, and as what the kernel is tested against.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # that networks' kernels take
MOST_SAMPLES = (1 << 16) - 1  # of a batch: one axis of a launch
_torch_alone: ContextVar[bool] = ContextVar("torch_alone", default=False)
_by_trial: ContextVar[bool] = ContextVar("by_trial", default=False)


def run_on(device: torch.device) -> bool:
    """Whether kernels are to be used for tensors on `device`; not in what torch.compile makes kernels of itself.

    To be asked in forward passes only: backward passes run in threads of torch's, and do as their forward did.
    """
    if device.type != "cuda" or torch.compiler.is_compiling() or _torch_alone.get():
        return False
    here = device.index is None or device.index == torch.cuda.current_device()  # where Triton launches
    return here and triton_works()


@contextmanager
def torch_alone(wanted: bool = True) -> Iterator[None]:
    """Meanwhile use no kernel in this thread, if `wanted`."""
    token = _torch_alone.set(_torch_alone.get() or wanted)
    try:
        yield
    finally:
        _torch_alone.reset(token)


def may_try() -> bool:
    """Whether cuDNN may time its algorithms, and choose others in another attempt; never where bits have to repeat."""
    return _by_trial.get() and not torch.are_deterministic_algorithms_enabled()


@contextmanager
def by_trial(wanted: bool = True) -> Iterator[None]:
    """Meanwhile let convolutions that cuDNN chooses by timing be chosen, if `wanted`."""
    token = _by_trial.set(wanted)
    try:
        yield
    finally:
        _by_trial.reset(token)


@cache
def triton_works() -> bool:
    """Whether Triton can launch here: it takes a C compiler and Python's headers besides the GPU."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # whatever its first build raises: torch alone remains
        print(f"Triton cannot be used here, so torch computes alone: {error}", flush=True)
        return False
    return True
