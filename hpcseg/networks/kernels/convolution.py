"""Valid 3D convolutions of stride 1 on tensor cores: result, gradient of the input, gradient of the weights.

Made for maps too few for a matrix product of their own (32 by 32, the F-Net's): the weights of several x-taps stand
side by side in one product, so that what is loaded is used several times. All sums are float32, of products of float32,
bfloat16 or float16, in an order that depends on sizes only.

Shapes: B batch, I input maps, K feature maps, D H W (z, y, x) edges, n kernel edge.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hpcseg.networks.kernels.convolution_kernels import correlate
from hpcseg.networks.kernels.convolution_weight_kernels import lag_products, tap_products

FEW = 16  # input maps: below, several of the kernel's (z, y) make up one block of channels
# Programs that an H100 has room for at once: not as many as the machine at hand has, so that bits are the same.
PROGRAMS, FEW_PROGRAMS = 2 * 132, 3 * 132
POSITIONS = 1 << 30  # of a whole batch at most


class Shape(NamedTuple):
    """Block sizes, warps and stages of a launch."""

    rows: int
    warps: int
    stages: int


TILE, WIDE_TILE, EXACT_TILE = Shape(128, 4, 4), Shape(256, 8, 4), Shape(64, 8, 2)
SUM, OLDER_SUM, EXACT_SUM = Shape(64, 4, 3), Shape(32, 8, 3), Shape(16, 8, 2)  # older: than Hopper, short of registers
FEW_SUM, EXACT_FEW_SUM = Shape(64, 8, 1), Shape(16, 8, 1)


def convolved(
    maps_BIDHW: Tensor, weight_KInnn: Tensor, *, pad: int = 0, wide: bool = False, out_BKDHW: Tensor | None = None
) -> Tensor:
    """Return the convolution (as `torch.nn.functional.conv3d`), in the dtype of the maps, channels last.

    Args:
        maps_BIDHW: float32, bfloat16 or float16; copied unless dense in channels_last_3d.
        weight_KInnn: of any dtype; rounded to that of the maps. n from 1 to 15.
        pad: zeros around the maps on every face.
        wide: tiles of twice the size: less to load, but one at a time on a multiprocessor.
        out_BKDHW: where to write, in channels_last_3d.
    """
    maps, inputs, edge = weight_KInnn.shape[:3]
    source_BDHWI = _rows(maps_BIDHW)
    batch, depth, height, width, _ = source_BDHWI.shape
    out_depth, out_height, out_width = (size + 2 * pad - edge + 1 for size in (depth, height, width))
    if out_BKDHW is None:
        out_BKDHW = source_BDHWI.new_empty((batch, out_depth, out_height, out_width, maps)).permute(0, 4, 1, 2, 3)
    out_BDHWK = out_BKDHW.permute(0, 2, 3, 4, 1)
    assert out_BDHWK.is_contiguous()
    assert out_BDHWK.shape == (batch, out_depth, out_height, out_width, maps)
    exact = source_BDHWI.dtype == torch.float32
    tile = EXACT_TILE if exact else WIDE_TILE if wide and inputs >= FEW else TILE
    constants = correlation_constants(edge, inputs, maps, pad, tile)
    packed = _packed(weight_KInnn, source_BDHWI.dtype, constants)
    total = batch * out_depth * out_height * (width + 2 * pad)
    assert total < POSITIONS
    valid = tile.rows - (4 if constants["TAPS"] > 1 else 0)
    correlate[(-(-total // valid), packed.shape[2])](
        source_BDHWI,
        packed,
        out_BDHWK,
        total,
        depth,
        height,
        width,
        out_depth,
        out_height,
        maps,
        packed.shape[0] * packed.shape[1] // constants["C"],
        **constants,
        num_warps=tile.warps,
    )
    return out_BKDHW


def input_gradient(
    gradient_BKDHW: Tensor, weight_KInnn: Tensor, *, wide: bool = False, out_BIDHW: Tensor | None = None
) -> Tensor:
    """Return the gradient of the convolution's input, in the dtype of `gradient_BKDHW`, channels last."""
    turned_IKnnn = weight_KInnn.flip((2, 3, 4)).transpose(0, 1)
    return convolved(gradient_BKDHW, turned_IKnnn, pad=weight_KInnn.shape[2] - 1, wide=wide, out_BKDHW=out_BIDHW)


def weight_gradient(maps_BIDHW: Tensor, gradient_BKDHW: Tensor) -> Tensor:
    """Return the gradient of the weights, float32 (K, I, n, n, n); n follows from the edges. Both share a dtype."""
    source_BDHWI, gradient_BDHWK = _rows(maps_BIDHW), _rows(gradient_BKDHW)
    assert source_BDHWI.dtype == gradient_BDHWK.dtype
    batch, depth, height, width, inputs = source_BDHWI.shape
    _, out_depth, out_height, out_width, maps = gradient_BDHWK.shape
    edge = depth - out_depth + 1
    assert (edge, edge) == (height - out_height + 1, width - out_width + 1)
    factor, digits = _reciprocal(out_width)
    sizes = (batch, depth, height, width, out_depth, out_height, out_width, maps, factor, digits)
    assert batch * depth * height * width < POSITIONS
    exact = source_BDHWI.dtype == torch.float32
    if inputs < FEW:
        return _few_weight_gradient(source_BDHWI, gradient_BDHWK, edge, sizes, EXACT_FEW_SUM if exact else FEW_SUM)
    shape = EXACT_SUM if exact else OLDER_SUM if older_than_hopper(source_BDHWI.device) else SUM
    constants = lag_constants(edge, inputs, maps, shape)
    lags, slots, C, K = constants["LAGS"], constants["TAPS"] + constants["EXTRA"], constants["C"], constants["K"]
    entries, order = _entries_on(edge, slots, source_BDHWI.device)
    blocks, k_blocks = -(-inputs // C), -(-maps // K)
    splits = _splits(len(entries) * blocks * k_blocks, batch * out_depth * out_height * out_width, shape.rows, PROGRAMS)
    partial = source_BDHWI.new_empty((splits, len(entries), k_blocks, blocks, lags, C, slots, K), dtype=torch.float32)
    lag_products[(len(entries) * blocks * k_blocks, splits)](
        source_BDHWI, gradient_BDHWK, partial, entries, *sizes, **constants, num_warps=shape.warps
    )
    of_taps = partial.sum(0).permute(0, 3, 5, 1, 6, 2, 4).reshape(len(entries) * lags * slots, k_blocks * K, blocks * C)
    of_taps = of_taps.index_select(0, order)[:, :maps, :inputs]
    return of_taps.permute(1, 2, 0).reshape(maps, inputs, edge, edge, edge)


def _few_weight_gradient(source: Tensor, gradient: Tensor, edge: int, sizes: tuple[int, ...], shape: Shape) -> Tensor:
    inputs, maps = source.shape[-1], gradient.shape[-1]
    constants = tap_constants(edge, inputs, maps, shape)
    blocks, k_blocks = -(-(edge**3) * inputs // constants["M"]), -(-maps // constants["K"])
    splits = _splits(blocks * k_blocks, gradient[..., 0].numel(), shape.rows, FEW_PROGRAMS)
    partial = source.new_empty((splits, blocks * constants["M"], k_blocks * constants["K"]), dtype=torch.float32)
    tap_products[(blocks, k_blocks, splits)](source, gradient, partial, *sizes, **constants, num_warps=shape.warps)
    sums = partial.sum(0)[: edge**3 * inputs, :maps]
    return sums.reshape(edge, edge, edge, inputs, maps).permute(4, 3, 0, 1, 2).contiguous()


def correlation_constants(edge: int, inputs: int, maps: int, pad: int, tile: Shape) -> dict[str, int]:
    """Constants of `correlate`."""
    taps, extra = slots_of(edge)
    return {
        "EDGE": edge,
        "INPUTS": inputs,
        "PAD": pad,
        "TAPS": taps,
        "EXTRA": extra,
        "GROUPS": -(-edge // (taps + extra)),
        "FEW": inputs < FEW,
        "M": tile.rows,
        "C": 16 if inputs == FEW else 32,
        "K": 16 if maps <= 16 else 32,
        "STAGES": tile.stages,
    }


def lag_constants(edge: int, inputs: int, maps: int, shape: Shape) -> dict[str, int]:
    """Constants of `lag_products`."""
    taps, extra = slots_of(edge)
    channels, columns = 16 if inputs == FEW else 32, 16 if maps <= 16 else 32
    return {
        "INPUTS": inputs,
        "LAGS": 4,
        "TAPS": taps,
        "EXTRA": extra,
        "P": shape.rows,
        "C": channels,
        "K": columns,
        "STAGES": shape.stages,
    }


def tap_constants(edge: int, inputs: int, maps: int, shape: Shape) -> dict[str, int]:
    """Constants of `tap_products`."""
    rows = 128 if edge**3 * inputs > 64 else 64
    return {"EDGE": edge, "INPUTS": inputs, "P": shape.rows, "M": rows, "K": 16 if maps <= 16 else 32}


def shared_bytes(
    operation: str, inputs: int, maps: int, edge: int, dtype: torch.dtype, *, wide: bool = False, older: bool = False
) -> int:
    """Bytes of shared memory that a program takes at least: for what is loaded ahead.

    One stage less than in flight, except where Hopper's matrix instructions read their operands there.

    Args:
        operation: "forward", "input_gradient" or "weight_gradient" of a convolution of `inputs` to `maps` maps.
        edge: of the kernel.
        dtype: of the maps.
        wide: see `convolved`.
        older: on GPUs older than Hopper.

    >>> shared_bytes("forward", 32, 32, 5, torch.bfloat16, wide=True) >> 10
    104
    """
    exact = dtype == torch.float32
    if operation == "weight_gradient":
        if inputs < FEW:
            return 0
        shape = EXACT_SUM if exact else OLDER_SUM if older else SUM
        one = lag_constants(edge, inputs, maps, shape)
        columns = one["LAGS"] * one["C"] + (one["TAPS"] + one["EXTRA"]) * one["K"]
        return (shape.stages - exact) * shape.rows * columns * dtype.itemsize
    if operation == "input_gradient":
        inputs, maps = maps, inputs
    tile = EXACT_TILE if exact else WIDE_TILE if wide and inputs >= FEW else TILE
    one, copies = correlation_constants(edge, inputs, maps, 0, tile), tile.stages - (exact or older)
    values, weights = one["C"] * one["M"], one["C"] * (one["TAPS"] + one["EXTRA"]) * one["K"]
    return (values * (1 if one["FEW"] else copies) + weights * copies) * dtype.itemsize


def slots_of(edge: int) -> tuple[int, int]:
    """Taps seen at once: a power of 2 in one product, and perhaps one more. To load costs about as much as 2 taps."""
    choices = [(4, 1), (4, 0), (2, 1), (2, 0), (1, 0)]
    return min(choices, key=lambda choice: -(-edge // sum(choice)) * (sum(choice) + 2))


@cache
def entries_of(edge: int, slots: int) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Programs of `lag_products`, which multiply 4 lags with `slots` delays, and where each tap is among them.

    Four x-taps are lags while y-taps are delays; if one or two x-taps are left, y-taps are lags and z-taps delays; what
    is left of that are taps that differ in z alone.

    Returns:
        rows (z, y, x of the first lag; its step in z, y, x; last lag; step of delays in z, y; last delay), all counted
        in voxels; and for each tap (z, y, x) its place in [programs, 4, slots], flat.
    """
    whole = edge if edge % 4 in (0, 3) else edge // 4 * 4
    rows: list[tuple[int, ...]] = []
    groups = [(first, min(4, whole - first)) for first in range(0, whole, 4)]
    delays = [(first, min(slots, edge - first)) for first in range(0, edge, slots)]
    for first, count in groups:
        rows += [(z, y, first, 0, 0, 1, count - 1, 0, 1, more - 1) for z in range(edge) for y, more in delays]
    for x in range(whole, edge):
        for first, count in groups:
            rows += [(z, first, x, 0, 1, 0, count - 1, 1, 0, more - 1) for z, more in delays]
        for y in range(whole, edge):
            for z in range(0, edge, slots + 3):
                count = min(4, edge - z)
                rows.append((z, y, x, 1, 0, 0, count - 1, 1, 0, min(slots - 1, edge - z - count)))
    places: dict[tuple[int, int, int], int] = {}
    for number, (z, y, x, step_z, step_y, step_x, last_lag, delay_z, delay_y, last_delay) in enumerate(rows):
        for lag in range(last_lag + 1):
            for delay in range(last_delay + 1):
                tap = (z + lag * step_z + delay * delay_z, y + lag * step_y + delay * delay_y, x + lag * step_x)
                places.setdefault(tap, (number * 4 + lag) * slots + delay)
    return tuple(rows), tuple(places[tap] for tap in sorted(places))


@cache
def _entries_on(edge: int, slots: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, places = entries_of(edge, slots)
    return torch.tensor(rows, dtype=torch.int32, device=device), torch.tensor(places, device=device)


def older_than_hopper(device: torch.device) -> bool:
    """Whether a GPU is short of registers and shared memory beside an H100."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0)


def _rows(maps_BKDHW: Tensor) -> Tensor:
    return maps_BKDHW.permute(0, 2, 3, 4, 1).contiguous()


def _splits(programs: int, positions: int, rows: int, at_once: int) -> int:
    """Into how many shares positions are split, so that all programs run at once and each takes some steps."""
    return max(1, min(at_once // programs, positions // (4 * rows)))


def _reciprocal(divisor: int) -> tuple[int, int]:
    """Return (factor, digits) with i // divisor == i * factor >> digits for 0 <= i < 2^30, the factor below 2^31."""
    digits = 30 + (divisor - 1).bit_length()
    return -(-(1 << digits) // divisor), digits


def _packed(weight_KInnn: Tensor, dtype: torch.dtype, constants: dict[str, int]) -> Tensor:
    """Return weights (groups of slots, (z, y, input map), blocks of maps, slots, maps of a block); zeros fill up."""
    maps, inputs, edge = weight_KInnn.shape[:3]
    groups, slots, C, K = constants["GROUPS"], constants["TAPS"] + constants["EXTRA"], constants["C"], constants["K"]
    more_inputs = 0 if constants["FEW"] else -inputs % C
    missing = (0, groups * slots - edge, 0, 0, 0, 0, 0, more_inputs, 0, -maps % K)
    filled = functional.pad(weight_KInnn, missing) if any(missing) else weight_KInnn
    inputs += more_inputs
    arranged = filled.reshape(-1, K, inputs, edge, edge, groups, slots).permute(5, 3, 4, 2, 0, 6, 1)
    rows = edge * edge * inputs
    shape = (groups, rows + -rows % C, filled.shape[0] // K, slots, K)
    packed = torch.empty(shape, dtype=dtype, device=weight_KInnn.device)
    packed[:, rows:] = 0
    packed[:, :rows].view(groups, edge, edge, inputs, *shape[2:]).copy_(arranged)
    return packed
