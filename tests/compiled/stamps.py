"""Launches of the sparse decoder's kernels: those of the paper's autoencoders, and odd ones."""

from __future__ import annotations

from dataclasses import replace

import triton

from hpcseg.networks.kernels.stamps import (
    SUMMED,
    TAKEN_STAMPS,
    TAKEN_VOXELS,
    TESTED,
    TILE_ZYX,
    sum_stamped_windows,
    sum_stamps,
    sum_windows,
)
from tests.offline import Variant

IMAGE = {"depth": "i32", "height": "i32", "width": "i32"}


def _counts(**counts: int) -> tuple[dict[str, str], dict[str, int]]:
    """Types and constants: Triton makes a constant of every 1."""
    return {name: "i32" for name, count in counts.items() if count > 1}, {n: 1 for n, c in counts.items() if c == 1}


def _sum_stamps(dtype: str, edge: int, maps: int, winners: int) -> Variant:
    types, ones = _counts(stamps=maps * winners, winners=winners)
    pointers = dict.fromkeys(("image", "values", "weight", "bias"), f"*{dtype}") | {"index": "*i64"}
    tile = dict(zip(("TILE_Z", "TILE_Y", "TILE_X"), TILE_ZYX, strict=True))
    tested = min(triton.next_power_of_2(maps * winners), TESTED)
    constants = {**ones, **tile, "EDGE": edge, "STAMPS": tested}
    name = f"sum_stamps {dtype} {edge} {maps}×{winners}"
    return Variant(name, sum_stamps, {**pointers, **types, **IMAGE}, constants, None, {"num_warps": 4})


def _sum_windows(dtype: str, edge: int, maps: int, winners: int) -> Variant:
    types, ones = _counts(maps=maps, winners=winners)
    pointers = dict.fromkeys(("result", "gradient", "weight"), f"*{dtype}") | {"index": "*i64"}
    block = min(max(triton.next_power_of_2(edge**3), 128), SUMMED)
    constants = {**ones, "EDGE": edge, "BLOCK": block}
    name = f"sum_windows {dtype} {edge} {maps}×{winners}"
    return Variant(name, sum_windows, {**pointers, **types, **IMAGE}, constants, None, {"num_warps": 4})


def _sum_stamped_windows(dtype: str, edge: int, maps: int, winners: int, batch: int) -> Variant:
    types, ones = _counts(count=batch * winners, maps=maps, winners=winners)
    pointers = dict.fromkeys(("result", "gradient", "values"), f"*{dtype}") | {"index": "*i64"}
    constants = {**ones, "EDGE": edge, "STAMPS": TAKEN_STAMPS, "BLOCK": TAKEN_VOXELS}
    name = f"sum_stamped_windows {dtype} {edge} {maps}×{winners}, {batch} samples"
    return Variant(name, sum_stamped_windows, {**pointers, **types, **IMAGE}, constants, None, {"num_warps": 4})


def _of_one_voxel(variant: Variant) -> Variant:
    types = {name: kind for name, kind in variant.types.items() if name not in IMAGE}
    constants = {**variant.constants, **dict.fromkeys(IMAGE, 1)}
    return replace(variant, name=f"{variant.name}, one voxel", types=types, constants=constants)


VARIANTS = [
    variant
    for dtype, edge, maps, winners, batch in (
        ("fp32", 13, 32, 5, 12),
        ("bf16", 13, 32, 5, 12),
        ("fp16", 13, 32, 5, 12),
        ("fp32", 1, 1, 1, 1),
        ("fp32", 2, 3, 1, 2),
        ("fp32", 15, 32, 1000, 12),
    )
    for variant in (
        _sum_stamps(dtype, edge, maps, winners),
        _sum_windows(dtype, edge, maps, winners),
        _sum_stamped_windows(dtype, edge, maps, winners, batch),
    )
]
VARIANTS += [_of_one_voxel(one) for one in VARIANTS if one.constants["EDGE"] == 1]
