"""Triton kernels of `hpcseg.networks.kernels.norm`, which says what they are for and launches them.

They see maps as a matrix of one row per voxel and one column per map. A program has a tile of `ROWS` by `WIDTH` at
once, `WIDTH` being `MAPS` rounded up to a power of 2; those that sum up go through a chunk of rows.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_up(
    x,
    partial,
    rows,
    chunk,
    chunks,
    MAPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Of one chunk: mean of the first rows, then the sum and the sum of squares of all rows less that."""
    first = tl.program_id(0).to(tl.int64) * chunk
    left = tl.minimum(rows - first, chunk).to(tl.int32)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)
    x += first * MAPS + row * MAPS + column[None, :]
    inside = (row < left) & (column[None, :] < MAPS)
    shift = tl.sum(tl.load(x, mask=inside, other=0.0).to(tl.float32), 0) / tl.minimum(left, ROWS)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    squares = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(0, left, ROWS):
        inside = (row < left - start) & (column[None, :] < MAPS)
        value = tl.load(x + start * MAPS, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - shift[None, :], 0.0)
        sums += value
        squares += value * value
    partial += column * chunks + tl.program_id(0)
    tl.store(partial, shift, mask=column < MAPS)
    tl.store(partial + MAPS * chunks, tl.sum(sums, 0), mask=column < MAPS)
    tl.store(partial + 2 * MAPS * chunks, tl.sum(squares, 0), mask=column < MAPS)


@triton.jit
def combine_statistics(
    partial,
    statistics,
    running_mean,
    running_variance,
    batches,
    rows,
    chunk,
    chunks,
    momentum,
    eps,
    MAPS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Of one map."""
    column = tl.program_id(0)
    index = tl.arange(0, CHUNKS)
    partial += column * chunks + index
    there = index < chunks
    shift = tl.load(partial, mask=there, other=0.0).to(tl.float64)
    sums = tl.load(partial + MAPS * chunks, mask=there, other=0.0).to(tl.float64)
    squares = tl.load(partial + 2 * MAPS * chunks, mask=there, other=0.0).to(tl.float64)
    size = tl.where(there, tl.minimum(rows - index.to(tl.int64) * chunk, chunk), 0).to(tl.float64)
    own = shift + sums / tl.maximum(size, 1.0)
    mean = tl.sum(size * own, 0) / rows
    away = own - mean
    apart = squares - sums * sums / tl.maximum(size, 1.0) + size * away * away
    apart = tl.sum(tl.where(there, apart, 0.0), 0)  # from the mean, squared
    high = mean.to(tl.float32)
    tl.store(statistics + column, high)
    tl.store(statistics + MAPS + column, (mean - high.to(tl.float64)).to(tl.float32))
    scale = 1.0 / tl.sqrt(apart / rows + eps)
    tl.store(statistics + 2 * MAPS + column, scale.to(tl.float32))
    before = tl.load(running_mean + column).to(tl.float64)
    tl.store(running_mean + column, (before + momentum * (mean - before)).to(tl.float32))
    before = tl.load(running_variance + column).to(tl.float64)
    tl.store(running_variance + column, (before + momentum * (apart / (rows - 1) - before)).to(tl.float32))
    if column == 0:
        tl.store(batches, tl.load(batches) + 1)


@triton.jit
def _of_maps(pointer, column, MAPS: tl.constexpr):
    """One value for each map, as a row."""
    return tl.load(pointer + column, mask=column < MAPS, other=0.0)[None, :]


@triton.jit
def _line(weight, bias, statistics, column, MAPS: tl.constexpr):
    """Mean in two parts, slope and height of the line that the norm is for each map."""
    high, low = _of_maps(statistics, column, MAPS), _of_maps(statistics + MAPS, column, MAPS)
    slope = _of_maps(weight, column, MAPS) * _of_maps(statistics + 2 * MAPS, column, MAPS)
    return high, low, slope, _of_maps(bias, column, MAPS)


@triton.jit
def normalise(
    x,
    weight,
    bias,
    statistics,
    out,
    rows,
    MAPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of the result."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)
    place = row * MAPS + column[None, :]
    inside = (row < rows - first) & (column[None, :] < MAPS)
    value = tl.load(x + first * MAPS + place, mask=inside, other=0.0).to(tl.float32)
    high, low, slope, height = _line(weight, bias, statistics, column, MAPS)
    value = ((value - high) - low) * slope + height
    value = tl.where(value <= 0.0, 0.0, value)  # so that what is no number stays none, as in torch
    tl.store(out + first * MAPS + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sum_up_gradients(
    gradient,
    x,
    weight,
    bias,
    statistics,
    partial,
    rows,
    chunk,
    chunks,
    MAPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Of one chunk: the sum of the gradient before ReLU, and of that times the maps less their mean."""
    first = tl.program_id(0).to(tl.int64) * chunk
    left = tl.minimum(rows - first, chunk).to(tl.int32)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)
    place = row * MAPS + column[None, :]
    x += first * MAPS
    gradient += first * MAPS
    high, low, slope, height = _line(weight, bias, statistics, column, MAPS)
    sums = tl.zeros([ROWS, WIDTH], tl.float32)
    products = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(0, left, ROWS):
        inside = (row < left - start) & (column[None, :] < MAPS)
        value = tl.load(x + start * MAPS + place, mask=inside, other=0.0).to(tl.float32)
        passed = tl.load(gradient + start * MAPS + place, mask=inside, other=0.0).to(tl.float32)
        value = (value - high) - low
        passed = tl.where(value * slope + height <= 0.0, 0.0, passed)
        sums += passed
        products += passed * value
    partial += column * chunks + tl.program_id(0)
    tl.store(partial, tl.sum(sums, 0), mask=column < MAPS)
    tl.store(partial + MAPS * chunks, tl.sum(products, 0), mask=column < MAPS)


@triton.jit
def combine_sums(partial, statistics, sums, chunks, MAPS: tl.constexpr, CHUNKS: tl.constexpr):
    """Of one map."""
    column = tl.program_id(0)
    index = tl.arange(0, CHUNKS)
    partial += column * chunks + index
    there = index < chunks
    found = tl.load(partial, mask=there, other=0.0).to(tl.float64)
    products = tl.load(partial + MAPS * chunks, mask=there, other=0.0).to(tl.float64)
    tl.store(sums + column, tl.sum(found, 0).to(tl.float32))
    scale = tl.load(statistics + 2 * MAPS + column).to(tl.float64)
    tl.store(sums + MAPS + column, (tl.sum(products, 0) * scale).to(tl.float32))


@triton.jit
def differentiate(
    gradient,
    x,
    weight,
    bias,
    statistics,
    sums,
    out,
    rows,
    MAPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One tile of the gradient of the maps."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)
    place = row * MAPS + column[None, :]
    inside = (row < rows - first) & (column[None, :] < MAPS)
    value = tl.load(x + first * MAPS + place, mask=inside, other=0.0).to(tl.float32)
    passed = tl.load(gradient + first * MAPS + place, mask=inside, other=0.0).to(tl.float32)
    high, low, slope, height = _line(weight, bias, statistics, column, MAPS)
    value = (value - high) - low
    passed = tl.where(value * slope + height <= 0.0, 0.0, passed)
    mean = _of_maps(sums, column, MAPS) / rows
    along = _of_maps(sums + MAPS, column, MAPS) * _of_maps(statistics + 2 * MAPS, column, MAPS) / rows
    passed = ((passed - mean) - value * along) * slope
    tl.store(out + first * MAPS + place, passed.to(out.dtype.element_ty), mask=inside)
