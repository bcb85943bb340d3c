"""Triton kernels of the gradient of a convolution's weights: partial sums over shares of all positions.

Maps are dense in the order B D H W C, as for `hpcseg.networks.kernels.convolution_kernels`.
"""
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from hpcseg.networks.kernels.convolution_kernels import SIZES, plus_product


@triton.jit(do_not_specialize=["batch", *SIZES, "out_width", "factor", "digits"])
def lag_products(  # noqa: PLR0915  (one pass from addresses to sums)
    source,
    gradient,
    partial,
    entries,
    batch,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    maps,
    factor,
    digits,
    INPUTS: tl.constexpr,
    LAGS: tl.constexpr,
    TAPS: tl.constexpr,
    EXTRA: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Sums over a share of the positions p of source[p + lag] ⊗ gradient[p - delay]: tap lag + delay of the weights.

    Positions are those of planes of the result, made deeper and higher by the greatest delay; a step takes P of one
    plane. `factor` and `digits` divide by `out_width`. A row of `entries` says which lags and delays a program has.
    """
    BLOCKS: tl.constexpr = (INPUTS + C - 1) // C
    PITCH: tl.constexpr = (TAPS + EXTRA) * K
    k_blocks = (maps + K - 1) // K
    block = tl.program_id(0)
    entries += block // (BLOCKS * k_blocks) * 10
    lag_z, lag_y, lag_x = tl.load(entries), tl.load(entries + 1), tl.load(entries + 2)
    step_z, step_y, step_x = tl.load(entries + 3), tl.load(entries + 4), tl.load(entries + 5)
    last_lag, delay_z, delay_y = tl.load(entries + 6), tl.load(entries + 7), tl.load(entries + 8)
    last_delay = tl.load(entries + 9)

    out_size = out_height * out_width
    size = out_size + delay_y * last_delay * out_width
    planes = out_depth + delay_z * last_delay
    chunks = (size + P - 1) // P
    steps = (batch * planes * chunks).to(tl.int64)
    first = (steps * tl.program_id(1) // tl.num_programs(1)).to(tl.int32)
    end = (steps * (tl.program_id(1) + 1) // tl.num_programs(1)).to(tl.int32)

    row = tl.arange(0, LAGS * C)
    lag = tl.minimum(row // C, last_lag)
    channel = block % BLOCKS * C + row % C
    lag = ((lag * step_z + lag_z) * height + lag * step_y + lag_y) * width + lag * step_x + lag_x
    a_offset = (lag * INPUTS + channel)[None, :]
    column = tl.arange(0, TAPS * K)
    delay = tl.minimum(column // K, last_delay)
    k = block // BLOCKS % k_blocks * K + column % K
    b_z, b_y = delay * delay_z, delay * delay_y * out_width
    b_offset = (k - (b_z * out_size + b_y) * maps)[None, :]
    extra = tl.arange(0, K)
    delay = tl.minimum(TAPS, last_delay)
    e_k = block // BLOCKS % k_blocks * K + extra
    e_z, e_y = delay * delay_z, delay * delay_y * out_width
    e_offset = (e_k - (e_z * out_size + e_y) * maps)[None, :]

    sums = tl.zeros((LAGS * C, TAPS * K), tl.float32)
    last = tl.zeros((LAGS * C, K), tl.float32)
    for step in tl.range(first, end, num_stages=STAGES):
        plane = step // chunks
        sample = (plane // planes).to(tl.int64)
        z = plane % planes
        place = (step - plane * chunks) * P + tl.arange(0, P)
        near = tl.minimum(place, size - 1)
        y = ((near.to(tl.int64) * factor) >> digits).to(tl.int32)
        a = source + (sample * depth + z) * height * width * INPUTS
        a += ((near + y * (width - out_width)) * INPUTS)[:, None] + a_offset
        values = tl.load(a) if INPUTS % C == 0 else tl.load(a, (channel < INPUTS)[None, :], 0.0)
        values = tl.trans(values)
        b = gradient + (sample * out_depth + z) * out_size * maps
        past = place[:, None] - b_y[None, :]
        inside = ((z >= b_z) & (z < b_z + out_depth) & (k < maps))[None, :] & (past >= 0) & (past < out_size)
        gradients = tl.load(b + ((place * maps)[:, None] + b_offset), inside, 0.0)
        sums = plus_product(sums, values, gradients)
        if EXTRA:
            past = (place - e_y)[:, None]
            inside = ((z >= e_z) & (z < e_z + out_depth) & (e_k < maps))[None, :] & (past >= 0) & (past < out_size)
            gradients = tl.load(b + ((place * maps)[:, None] + e_offset), inside, 0.0)
            last = plus_product(last, values, gradients)
    partial += (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + block) * (LAGS * C * PITCH)
    tl.store(partial + row[:, None] * PITCH + column[None, :], sums)
    if EXTRA:
        tl.store(partial + row[:, None] * PITCH + TAPS * K + extra[None, :], last)


@triton.jit(do_not_specialize=["batch", *SIZES, "out_width", "factor", "digits"])
def tap_products(
    source,
    gradient,
    partial,
    batch,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    maps,
    factor,
    digits,
    EDGE: tl.constexpr,
    INPUTS: tl.constexpr,
    P: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    """The same for few input maps: sums of M (tap, input map) times K maps, over a share of the result's positions."""
    ENTRIES: tl.constexpr = EDGE * EDGE * EDGE * INPUTS
    size = out_height * out_width
    chunks = (size + P - 1) // P
    steps = (batch * out_depth * chunks).to(tl.int64)
    first = (steps * tl.program_id(2) // tl.num_programs(2)).to(tl.int32)
    end = (steps * (tl.program_id(2) + 1) // tl.num_programs(2)).to(tl.int32)
    row = tl.arange(0, M)
    entry = tl.program_id(0) * M + row
    tap = entry // INPUTS
    offset = (tap // (EDGE * EDGE) * height + tap // EDGE % EDGE) * width + tap % EDGE
    offset = tl.where(entry < ENTRIES, offset * INPUTS + entry % INPUTS, 0)[None, :]
    k = tl.program_id(1) * K + tl.arange(0, K)
    sums = tl.zeros((M, K), tl.float32)
    for step in range(first, end):
        plane = step // chunks
        sample = (plane // out_depth).to(tl.int64)
        place = (step - plane * chunks) * P + tl.arange(0, P)
        near = tl.minimum(place, size - 1)
        y = ((near.to(tl.int64) * factor) >> digits).to(tl.int32)
        a = source + (sample * depth + plane % out_depth) * height * width * INPUTS
        a += ((near + y * (width - out_width)) * INPUTS)[:, None] + offset
        values = tl.trans(tl.load(a))  # loaded with positions first: Triton 3.6 gives those to neighbouring threads
        b = gradient + plane.to(tl.int64) * size * maps
        inside = (place < size)[:, None] & (k < maps)[None, :]
        gradients = tl.load(b + (place * maps)[:, None] + k[None, :], inside, 0.0)
        sums = plus_product(sums, values, gradients)
    partial += tl.program_id(2).to(tl.int64) * tl.num_programs(0) * M * tl.num_programs(1) * K
    pitch = tl.num_programs(1) * K
    tl.store(partial + entry[:, None] * pitch + k[None, :], sums)
