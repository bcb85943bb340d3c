"""Triton kernels of `hpcseg.networks.kernels.convolution`, which says what they compute and launches them.

Maps are dense in the order B D H W C, so that a position's channels stand side by side and an offset in space is an
offset in memory. "Slots" are taps that one program sees at once.
"""
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ("depth", "height", "width", "out_depth", "out_height")  # of any value, compiled once
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def plus_product(sums, a, b):
    """Sums + a b, of products that are not rounded."""
    if INTERPRETED:  # Triton's interpreter multiplies bfloat16 as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def _quarters(rows_MK, M: tl.constexpr, K: tl.constexpr):
    """Rows of positions 4 j, 4 j + 1, 4 j + 2 and 4 j + 3, each (M / 4, K); see `_position`."""
    parts = tl.permute(tl.reshape(rows_MK, (2, M // 32, 2, 8, K)), (1, 3, 4, 0, 2))
    even, odd = tl.split(tl.reshape(parts, (M // 4, K, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def _position(row, M: tl.constexpr):
    """Which position of a tile a row of a matrix product has.

    A thread of a tensor core's result has rows 8 and M / 2 apart: these shall be neighbours, so that most of adding up
    neighbours' sums stays in the thread.
    """
    return (row % (M // 2) // 16 * 8 + row % 8) * 4 + row // (M // 2) * 2 + row // 8 % 2


@triton.jit
def _following(x0, x1, x2, x3, J: tl.constexpr, K: tl.constexpr):
    """Of four (J, K): row j + 1 at row j; the last row is of no use.

    Rows and columns are so arranged that it becomes one shuffle inside warps.
    """
    x = tl.join(tl.join(x0, x1), tl.join(x2, x3))
    x = tl.permute(tl.reshape(x, (J, K // 8, 4, 2, 2, 2)), (1, 3, 4, 5, 0, 2))
    index = tl.minimum(tl.arange(0, J) + 1, J - 1)
    x = tl.gather(tl.reshape(x, (K, J, 4)), tl.broadcast_to(index[None, :, None], (K, J, 4)), 1)
    x = tl.permute(tl.reshape(x, (K // 8, 2, 2, 2, J, 4)), (4, 0, 5, 1, 2, 3))
    low, high = tl.split(tl.reshape(x, (J, K, 2, 2)))
    x0, x1 = tl.split(low)
    x2, x3 = tl.split(high)
    return x0, x1, x2, x3


@triton.jit
def _added(sums, last, TAPS: tl.constexpr, EXTRA: tl.constexpr, M: tl.constexpr, K: tl.constexpr):
    """Result (M, K) in order of positions: at p the sum over slots t of t's sum at p + t; the last 4 are of no use."""
    J: tl.constexpr = M // 4
    nothing = tl.zeros((M, K), tl.float32)
    if TAPS == 4:
        even, odd = tl.split(tl.permute(tl.reshape(sums, (M, 2, 2, K)), (0, 3, 1, 2)))
        tap0, tap2 = tl.split(even)
        tap1, tap3 = tl.split(odd)
        tap4 = last if EXTRA else nothing
    else:
        tap0, tap1 = tl.split(tl.permute(tl.reshape(sums, (M, 2, K)), (0, 2, 1)))
        tap2 = last if EXTRA else nothing
        tap3 = nothing
        tap4 = nothing
    a0, a1, a2, a3 = _quarters(tap0, M, K)
    b0, b1, b2, b3 = _quarters(tap1, M, K)
    c0, c1, c2, c3 = _quarters(tap2, M, K)
    d0, d1, d2, d3 = _quarters(tap3, M, K)
    e0, e1, e2, e3 = _quarters(tap4, M, K)
    x0, x1, x2, x3 = _following(e0, d0 + e1, c0 + d1 + e2, b0 + c1 + d2 + e3, J, K)
    x0 += a0 + b1 + c2 + d3
    x1 += a1 + b2 + c3
    x2 += a2 + b3
    x3 += a3
    joined = tl.join(tl.join(x0, x2), tl.join(x1, x3))
    return tl.reshape(tl.permute(joined, (0, 2, 3, 1)), (M, K))


@triton.jit(do_not_specialize=["total", *SIZES, "steps"])
def correlate(  # noqa: PLR0915  (one pass from addresses to result)
    source,
    weight,
    out,
    total,
    depth,
    height,
    width,
    out_depth,
    out_height,
    maps,
    steps,
    EDGE: tl.constexpr,
    INPUTS: tl.constexpr,
    PAD: tl.constexpr,
    TAPS: tl.constexpr,
    EXTRA: tl.constexpr,
    GROUPS: tl.constexpr,
    FEW: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile of positions (b, z, y, x), z and y of the result, x of the padded source, times `K` maps.

    A step multiplies M positions' channels, loaded once for a (z, y) of the kernel, with the weights of `TAPS + EXTRA`
    x-taps. Each tap has sums of its own, which are added up in the end, shifted by the tap. Kernels wider than that
    take several `GROUPS` of taps. With `FEW` channels a step takes channels of several (z, y) of the kernel. There are
    `GROUPS * STEPS` steps; that the compiler does not know how many keeps it from unrolling all of them.
    """
    SLOTS: tl.constexpr = TAPS + EXTRA
    VALID: tl.constexpr = M - 4 if SLOTS > 1 else M
    PITCH: tl.constexpr = SLOTS * K
    CHANNELS: tl.constexpr = INPUTS if FEW else (INPUTS + C - 1) // C * C
    STEPS: tl.constexpr = (EDGE * EDGE * CHANNELS + C - 1) // C  # of a group
    row = tl.arange(0, M)
    place = _position(row, M) if SLOTS > 1 else row
    span = width + 2 * PAD
    position = tl.minimum(tl.program_id(0) * VALID + place, total - 1)
    line = position // span
    plane = line // out_height
    x = position % span - PAD
    y = line % out_height - PAD
    z = plane % out_depth - PAD
    start = (((plane // out_depth).to(tl.int64) * depth + z) * height + y) * width + x
    source += start[:, None] * INPUTS
    column = tl.arange(0, C)
    pitch = tl.num_programs(1) * PITCH
    weight += tl.program_id(1) * PITCH + column[:, None] * pitch
    tap = tl.arange(0, TAPS * K)[None, :]
    extra = TAPS * K + tl.arange(0, K)[None, :]
    sums = tl.zeros((M, TAPS * K), tl.float32)
    last = tl.zeros((M, K), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        block = step % STEPS
        dx = step // STEPS * SLOTS
        if FEW:
            entry = (block * C + column)[None, :]
            pair = entry // INPUTS
            channel = entry % INPUTS
            inside = pair < EDGE * EDGE
        else:
            pair = block // (CHANNELS // C)
            channel = (block % (CHANNELS // C) * C + column)[None, :]
            inside = channel < INPUTS
        dz = pair // EDGE
        dy = pair % EDGE
        if PAD > 0:
            inside = inside & (z[:, None] + dz >= 0) & (z[:, None] + dz < depth)
            inside = inside & (y[:, None] + dy >= 0) & (y[:, None] + dy < height) & (x + dx >= 0)[:, None]
        if PAD > 0 or GROUPS > 1:
            inside = inside & (x + dx < width)[:, None]
        where = source + ((dz * height + dy) * width + dx) * INPUTS + channel
        MASKED: tl.constexpr = FEW or PAD > 0 or GROUPS > 1 or CHANNELS > INPUTS
        values = tl.load(where, inside, 0.0) if MASKED else tl.load(where)
        weights = weight + step * (C * pitch)
        sums = plus_product(sums, values, tl.load(weights + tap))
        if EXTRA:
            last = plus_product(last, values, tl.load(weights + extra))
    result = _added(sums, last, TAPS, EXTRA, M, K) if SLOTS > 1 else sums
    row = tl.arange(0, M)
    position = tl.program_id(0) * VALID + row
    x = position % span
    target = (position // span).to(tl.int64) * (span - EDGE + 1) + x
    kept = (position < total) & (x < span - EDGE + 1) & (row < VALID)
    k = tl.program_id(1) * K + tl.arange(0, K)
    out += target[:, None] * maps + k[None, :]
    tl.store(out, result.to(out.dtype.element_ty), kept[:, None] & (k < maps)[None, :])
