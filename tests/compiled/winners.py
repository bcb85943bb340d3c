"""Launches of the winners' kernels: the code of an autoencoder of the paper's finest level, and odd ones."""

from __future__ import annotations

from typing import Any

from hpcseg.networks.kernels.winners import MOST_CANDIDATES, MOST_GROUPS, ROWS, choose, group_maxima, scatter
from tests.offline import Variant

SIZES = {"voxels": "i32", "groups": "i32", "maps": "i32"}
CHANNELS_LAST = {"stride_b": "i32", "stride_v": "i32"}, {"stride_k": 1}
CONTIGUOUS = {"stride_b": "i32", "stride_k": "i32"}, {"stride_v": 1}
LAYOUTS = {"channels last": CHANNELS_LAST, "contiguous": CONTIGUOUS}


def _group_maxima(dtype: str, layout: str, group: int, maps: int) -> Variant:
    strides, one = LAYOUTS[layout]
    aligned = ("code", "maxima", "maps", "voxels", *strides)
    return Variant(
        f"group_maxima {dtype} {layout} {group}×{maps}",
        group_maxima,
        {"code": f"*{dtype}", "maxima": "*i32", **SIZES, **strides},
        {**one, "GROUP": group, "ROWS": ROWS, "MAPS": maps},
        aligned if maps >= 16 else ("code", "maxima"),
        {"num_warps": 4},
    )


def _choose(dtype: str, layout: str, group: int, groups: int, winners: int, slots: int) -> Variant:
    strides, one = LAYOUTS[layout]
    return Variant(
        f"choose {dtype} {layout} {winners} of {groups}×{group}",
        choose,
        {"code": f"*{dtype}", "maxima": "*i32", "values": "*fp32", "index": "*i64", **SIZES, **strides},
        {**one, "GROUP": group, "GROUPS": groups, "WINNERS": winners, "SLOTS": slots},
        None,
        {"num_warps": 8},
    )


def _scatter(dtype: str, layout: str, winners: int) -> Variant:
    strides, one = LAYOUTS[layout]
    types = {"code": f"*{dtype}", "values": "*fp32", "index": "*i64", "count": "i32", "maps": "i32", **strides}
    number = {"winners": 1} if winners == 1 else {}  # Triton makes every 1 a constant
    types |= {} if number else {"winners": "i32"}
    return Variant(f"scatter {dtype} {layout} {winners}", scatter, types, {**one, **number, "BLOCK": 256})


def _of_one_voxel(kernel: Any, **constants: int) -> Variant:
    types = {"code": "*fp32", "maxima": "*i32", "values": "*fp32", "index": "*i64"}
    ones = dict.fromkeys(("voxels", "groups", "maps", "count", "winners", "stride_b", "stride_k", "stride_v"), 1)
    names = kernel.arg_names
    return Variant(
        f"{kernel.__name__} of one voxel",
        kernel,
        {name: kind for name, kind in types.items() if name in names},
        {name: one for name, one in ones.items() if name in names} | constants,
    )


VARIANTS = [
    *(
        variant
        for dtype in ("bf16", "fp16", "fp32")
        for layout in LAYOUTS
        for variant in (
            _group_maxima(dtype, layout, ROWS, 32),
            _choose(dtype, layout, ROWS, 2048, 5, 8),
            _scatter(dtype, layout, 5),
        )
    ),
    _group_maxima("bf16", "channels last", ROWS, 4),
    _group_maxima("bf16", "channels last", 2 * ROWS, 32),
    _choose("bf16", "channels last", ROWS, 16, 1, 1),
    _choose("fp32", "channels last", MOST_CANDIDATES // 32, MOST_GROUPS, 32, 32),
    _scatter("bf16", "channels last", 1),
    _of_one_voxel(group_maxima, GROUP=ROWS, ROWS=ROWS, MAPS=1),
    _of_one_voxel(choose, GROUP=ROWS, GROUPS=1, WINNERS=1, SLOTS=1),
    _of_one_voxel(scatter, BLOCK=256),
]
