"""All voxels of a minibatch from volumes on a GPU, in one launch: averaged, windowed and rounded on the way.

The bits are those of the same in torch: whole numbers are summed exactly and rounded half to even, as in
`codes.pool_codes_on_device`; floating-point steps are those of `codes.windowed`, each rounded for itself. No two
of them may be fused, and division must be exact: `_OPTIONS` and `div_rn` see to it.

Shapes: B patches, C cubes of a patch, N boxes, R columns of a row (`cubes.Column`), P edge of the target. A program
makes BLOCK voxels of one cube, which it finds by the table's column FIRST.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from hpcseg.patches.buffers import on_device
from hpcseg.patches.cubes import COLUMNS, SIZE, Column, Rows

BLOCK = 512  # voxels of a program
CUBE = 4  # voxels of a cube that are added at a time; cubes of 2³ and more are whole multiples of it
WARPS = 8
_OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

_R = tl.constexpr(COLUMNS)
_SOURCE, _TARGET, _FIRST = (tl.constexpr(int(c)) for c in (Column.SOURCE, Column.TARGET, Column.FIRST))
_SHAPE, _START, _SIZE = (tl.constexpr(int(c)) for c in (Column.DEPTH, Column.START_Z, Column.SIZE_Z))
_OUTSIDE, _LOW, _HIGH = (tl.constexpr(int(c)) for c in (Column.OUTSIDE, Column.LOW, Column.HIGH))
_SHIFT, _IS_LABEL = (tl.constexpr(int(c)) for c in (Column.SHIFT, Column.IS_LABEL))


@triton.jit
def gather_kernel(
    rows_BCR,
    windows_B6,
    IMAGE: tl.constexpr,
    CUBES: tl.constexpr,
    CUBES_UP: tl.constexpr,
    BLOCK: tl.constexpr,
    CUBE: tl.constexpr,
):
    """Make BLOCK voxels of a patch: of type IMAGE, or int64 classes. CUBES_UP: CUBES, up to a power of two."""
    rows_CR = rows_BCR + tl.program_id(1) * CUBES * _R
    row = rows_CR + _found(rows_CR, CUBES, CUBES_UP) * _R
    z, y, x, voxel, wanted = _voxels(row, BLOCK)
    if tl.load(row + _IS_LABEL) == 1:
        classes = _read(row, z, y, x, wanted, tl.uint8)
        tl.store(tl.load(row + _TARGET).to(tl.pointer_type(tl.int64)) + voxel, classes.to(tl.int64), mask=wanted)
    else:
        shift = tl.load(row + _SHIFT).to(tl.int32)
        window = windows_B6 + tl.program_id(1) * 6
        image = tl.load(row + _TARGET).to(tl.pointer_type(IMAGE))
        if shift == 0:
            code = _read(row, z, y, x, wanted, tl.int16).to(tl.int32)
            tl.store(image + voxel, _windowed(code, window, IMAGE), mask=wanted)
        else:  # stored apart, since threads share the voxels out in another way here
            mean = _mean(row, z, y, x, wanted, shift, BLOCK, CUBE)
            tl.store(image + voxel, _windowed(mean, window, IMAGE), mask=wanted)


@triton.jit
def copy_kernel(rows_NR, COUNT: tl.constexpr, COUNT_UP: tl.constexpr, BLOCK: tl.constexpr):
    """Copy BLOCK voxels of a box as they are stored. COUNT_UP: COUNT, up to a power of two."""
    row = rows_NR + _found(rows_NR, COUNT, COUNT_UP) * _R
    z, y, x, voxel, wanted = _voxels(row, BLOCK)
    if tl.load(row + _IS_LABEL) == 1:
        classes = _read(row, z, y, x, wanted, tl.uint8)
        tl.store(tl.load(row + _TARGET).to(tl.pointer_type(tl.uint8)) + voxel, classes, mask=wanted)
    else:
        codes = _read(row, z, y, x, wanted, tl.int16)
        tl.store(tl.load(row + _TARGET).to(tl.pointer_type(tl.int16)) + voxel, codes, mask=wanted)


@triton.jit
def _windowed(code, window, IMAGE: tl.constexpr):
    """A network's input, of type IMAGE, in the steps of `codes.windowed`."""
    value = code.to(tl.float32) * tl.load(window)
    value = value + tl.load(window + 1)
    value = tl.maximum(value, tl.load(window + 2), propagate_nan=tl.PropagateNan.ALL)
    value = tl.minimum(value, tl.load(window + 3), propagate_nan=tl.PropagateNan.ALL)
    value = value - tl.load(window + 4)
    value = tl.math.div_rn(value, tl.load(window + 5))
    if tl.bfloat16 == IMAGE:
        value = _rounded(value)
    return value.to(IMAGE)


@triton.jit
def _rounded(value):
    """Values that bfloat16 can hold, half to even: Triton's interpreter would cut the rest off."""
    bits = value.to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
    number = value == value  # noqa: PLR0124  (a GPU's NaN, 0x7FFFFFFF, would wrap)
    return tl.where(number, rounded, bits).to(tl.float32, bitcast=True)


@triton.jit
def _found(rows, COUNT: tl.constexpr, COUNT_UP: tl.constexpr):
    """Which of the rows this program works for: the last that begins with it or before."""
    index = tl.arange(0, COUNT_UP)
    first = tl.load(rows + index * _R + _FIRST, mask=index < COUNT, other=1 << 30)
    return tl.sum((first <= tl.program_id(0)).to(tl.int32), 0) - 1


@triton.jit
def _voxels(row, BLOCK: tl.constexpr):
    """Positions in the cube of this program's voxels, their place in memory, and which of them there are."""
    depth = tl.load(row + _SIZE).to(tl.int32)
    height = tl.load(row + _SIZE + 1).to(tl.int32)
    width = tl.load(row + _SIZE + 2).to(tl.int32)
    voxel = (tl.program_id(0) - tl.load(row + _FIRST).to(tl.int32)) * BLOCK + tl.arange(0, BLOCK)
    line = voxel // width
    return line // height, line % height, voxel % width, voxel, voxel < depth * height * width


@triton.jit
def _read(row, z, y, x, wanted, TYPE: tl.constexpr):
    """Voxels of the row's volume, of type TYPE, at positions in the cube."""
    z += tl.load(row + _START).to(tl.int32)
    y += tl.load(row + _START + 1).to(tl.int32)
    x += tl.load(row + _START + 2).to(tl.int32)
    volume, depth, height, width, outside = _volume(row, TYPE)
    return _at(volume, depth, height, width, outside, z, y, x, wanted)


@triton.jit
def _mean(row, z, y, x, wanted, shift, BLOCK: tl.constexpr, CUBE: tl.constexpr):
    """Means of cubes of 2^`shift` codes along each axis, rounded half to even, int32."""
    z = ((z << shift) + tl.load(row + _START).to(tl.int32))[:, None]
    y = ((y << shift) + tl.load(row + _START + 1).to(tl.int32))[:, None]
    x = ((x << shift) + tl.load(row + _START + 2).to(tl.int32))[:, None]
    volume, depth, height, width, outside = _volume(row, tl.int16)
    low, high = tl.load(row + _LOW).to(tl.int32), tl.load(row + _HIGH).to(tl.int32)
    sums = tl.zeros((BLOCK, CUBE), tl.int32)
    first = 0
    while first < 1 << (3 * shift):  # Triton 3.6's interpreter has no ranges up to what was loaded
        part = (first + tl.arange(0, CUBE))[None, :]
        in_z, in_y, in_x = part >> (2 * shift), (part >> shift) & ((1 << shift) - 1), part & ((1 << shift) - 1)
        codes = _at(volume, depth, height, width, outside, z + in_z, y + in_y, x + in_x, wanted[:, None])
        sums += tl.minimum(tl.maximum(codes.to(tl.int32), low), high)
        first += CUBE
    total = tl.sum(sums, 1)
    total += (1 << (3 * shift - 1)) - 1 + ((total >> (3 * shift)) & 1)
    return total >> (3 * shift)


@triton.jit
def _volume(row, TYPE: tl.constexpr):
    """The row's volume: where it lies, its shape, and the value beyond it."""
    volume = tl.load(row + _SOURCE).to(tl.pointer_type(TYPE))
    depth, height = tl.load(row + _SHAPE).to(tl.int32), tl.load(row + _SHAPE + 1).to(tl.int32)
    return volume, depth, height, tl.load(row + _SHAPE + 2).to(tl.int32), tl.load(row + _OUTSIDE).to(TYPE)


@triton.jit
def _at(volume, depth, height, width, outside, z, y, x, wanted):
    """Voxels of a volume at its own positions."""
    inside = wanted & (z >= 0) & (z < depth) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    place = (z * height + y).to(tl.int64) * width + x  # a volume may have more than 2^31 voxels, but not lines
    return tl.load(volume + place, mask=inside, other=outside)


def cut(
    rows_BCR: Rows, table_B6: NDArray[np.float32] | Tensor, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor | None]:
    """Make new images of type `dtype`, and the label if the rows end with it; else as `gather`."""
    labelled = bool(rows_BCR[0, -1, Column.IS_LABEL])
    shapes = [(len(rows_BCR), *shape) for shape in rows_BCR[0, :, SIZE].tolist()]
    label = torch.empty(shapes.pop(), dtype=torch.int64, device=device) if labelled else None
    images = [torch.empty((count, 1, *shape), dtype=dtype, device=device) for count, *shape in shapes]
    gather(rows_BCR, table_B6, images, label)
    return images, label


def gather(
    rows_BCR: Rows, table_B6: NDArray[np.float32] | Tensor, images: Sequence[Tensor], label: Tensor | None
) -> None:
    """Make the cubes of a minibatch, on the device of `images` and of the volumes that the rows name.

    Args:
        rows_BCR: see `cubes.Column`; targets and programs are filled in here. First all images, then the label.
        table_B6: see `codes`; in the host's memory, or float32 on the device.
        images: (B, 1, D, D, D) per level, contiguous, float32, bfloat16 or float16, to be written to.
        label: (B, P, P, P) int64, to be written to.
    """
    targets = [*images, *([] if label is None else [label])]
    for cube, target in enumerate(targets):
        assert target.is_contiguous()
        rows_BCR[:, cube, Column.TARGET] = target.data_ptr() + np.arange(len(target)) * (target.nbytes // len(target))
    costliest = np.argsort(-rows_BCR[:, :, Column.SHIFT].max(axis=0), kind="stable")  # first, so that none is late
    rows_BCR = rows_BCR[:, costliest]
    programs = _numbered(rows_BCR)
    device = targets[0].device
    if isinstance(table_B6, Tensor):
        (rows,), table = on_device(device, rows_BCR), table_B6.contiguous()
    else:
        rows, table = on_device(device, rows_BCR, table_B6)
    count, cubes = rows_BCR.shape[:2]
    gather_kernel[(programs, count)](
        rows,
        table,
        IMAGE=_DTYPES[images[0].dtype],
        CUBES=cubes,
        CUBES_UP=triton.next_power_of_2(cubes),
        BLOCK=BLOCK,
        CUBE=CUBE,
        **_OPTIONS,
    )


def copy_boxes(rows_NR: Rows, device: torch.device) -> None:
    """Copy boxes as they are stored, from volumes on `device` to where the rows say; programs are filled in here."""
    programs = _numbered(rows_NR)
    (rows,) = on_device(device, rows_NR)
    count = len(rows_NR)
    copy_kernel[(programs,)](rows, COUNT=count, COUNT_UP=triton.next_power_of_2(count), BLOCK=BLOCK, num_warps=WARPS)


def _numbered(rows: Rows) -> int:
    """Give each row its programs, one after the other along the last axis but one; return their number."""
    sizes = rows[..., SIZE]
    programs = -(-sizes.prod(axis=-1) // BLOCK)
    rows[..., Column.FIRST] = np.cumsum(programs, axis=-1) - programs
    return int(programs.reshape(-1, programs.shape[-1])[0].sum())
