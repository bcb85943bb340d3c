"""Launches of the kernels of batch norm and ReLU: the paper's 32 maps, and odd numbers of them."""

from __future__ import annotations

from hpcseg.networks import normalisation
from hpcseg.networks.kernels import norm, norm_kernels
from tests.offline import Variant

STATISTICS = {"weight": "*fp32", "bias": "*fp32", "statistics": "*fp32"}
CHUNKS = {"rows": "i32", "chunk": "i32", "chunks": "i32"}


def _of(dtype: str, maps: int, rows: str = "i32", **ones: int) -> list[Variant]:
    one, two, combined = norm._tile(maps), norm._tile(maps, 2), {"MAPS": maps, "CHUNKS": norm._COMBINED}
    x, gradient, out, partial = {"x": dtype}, {"gradient": dtype}, {"out": dtype}, {"partial": "*fp32"}
    chunks = CHUNKS | {"rows": rows}
    buffers = {"running_mean": "*fp32", "running_variance": "*fp32", "batches": "*i64"}
    floats = {"momentum": "fp32", "eps": "fp32"}
    kernels = (
        ("sum_up", {**x, **partial, **chunks}, one),
        ("combine_statistics", {**partial, "statistics": "*fp32", **buffers, **chunks, **floats}, combined),
        ("normalise", {**x, **STATISTICS, **out, "rows": rows}, one),
        ("sum_up_gradients", {**gradient, **x, **STATISTICS, **partial, **chunks}, two),
        ("combine_sums", {**partial, "statistics": "*fp32", "sums": "*fp32", "chunks": "i32"}, combined),
        ("differentiate", {**gradient, **x, **STATISTICS, "sums": "*fp32", **out, "rows": rows}, two),
    )
    return [
        Variant(
            f"{name} {dtype[1:]} {maps} maps",
            getattr(norm_kernels, name),
            {argument: kind for argument, kind in types.items() if argument not in ones},
            {**constants, **{argument: one for argument, one in ones.items() if argument in types}},
            None,
            {"num_warps": 4},
        )
        for name, types, constants in kernels
    ]


VARIANTS = [
    *_of("*bf16", 32),
    *_of("*fp16", 32),
    *_of("*fp32", 32),
    *_of("*bf16", 64),
    *_of("*bf16", 3),
    *_of("*fp32", 1),
    *_of("*bf16", normalisation.MAX_MAPS),
    *_of("*bf16", 32, "i64"),
    *_of("*fp32", 3, chunks=1),  # Triton makes a constant of every 1
]
