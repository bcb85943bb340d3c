"""What the device reaches at best: a large matrix product and a large copy, of random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tests.gpu.floor import Ceilings
from tests.gpu.kit import Kit

SETS = 3  # of matrices, in turn


def measure(kit: Kit) -> None:
    """Both ceilings; and, to compare float32 steps with, the matrix product of TF32 and of float32."""
    rows: list[list[str]] = []
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        with _tf32(tf32):
            found = kit.attempt(f"matrix product, {name}", partial(_product, kit, dtype))
        if found is not None:
            kit.figure(f"ceiling_{name}_tflops", found)
            edge = kit.sizes.matrix
            rows.append([f"{edge}³ matrix product, {name}", f"{found:.0f} TFLOP/s"])
    copied = kit.attempt("copy", lambda: _copy(kit))
    if copied is not None:
        kit.figure("ceiling_copy_gbs", copied)
        rows.append([f"copy of {kit.sizes.copied / 1e9:.2g} GB, read plus written", f"{copied:,.0f} GB/s"])
    kit.table("Ceilings", ["what", "median"], rows)


def known(kit: Kit) -> Ceilings | None:
    """The ceilings, if they were measured."""
    product, copied = kit.known("ceiling_bf16_tflops"), kit.known("ceiling_copy_gbs")
    return None if product is None or copied is None else Ceilings(product * 1e12, copied * 1e9)


def _product(kit: Kit, dtype: torch.dtype) -> float:
    """TFLOP/s."""
    edge, device = kit.sizes.matrix, kit.machine.device
    pairs = [
        (_random((edge, edge), dtype, device, 2 * n), _random((edge, edge), dtype, device, 2 * n + 1))
        for n in range(SETS)
    ]
    timing = kit.machine.milliseconds(*(lambda one=one: torch.mm(*one) for one in pairs))
    return 2 * edge**3 / timing.median / 1e9


def _copy(kit: Kit) -> float:
    """GB/s."""
    source = torch.randint(0, 256, (kit.sizes.copied,), dtype=torch.uint8, device=kit.machine.device)
    target = torch.empty_like(source)
    timing = kit.machine.milliseconds(lambda: target.copy_(source))
    return 2 * kit.sizes.copied / timing.median / 1e6


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


@contextlib.contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """Meanwhile let float32 matrix products use TF32, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
