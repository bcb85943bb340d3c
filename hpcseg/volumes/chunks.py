"""Boxes of a chunked volume, straight from the memory-mapped file.

HDF5 keeps a chunk of 32³ voxels as 32² rows of 32 voxels, one after the other, and uncompressed chunks of one volume in
z, y, x order. Which rows a box meets is a matter of arithmetic; one gather copies them all. Calls are few, and each
lets go of the interpreter's lock, so that threads seldom wait for each other. Compressed chunks are decoded one by one.

Positions are z, y, x in voxels of the volume.
"""

from __future__ import annotations

import itertools
import math
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import BadInput
from hpcseg.volumes.boxes import Triple

CHUNK = 32
CODECS = ("none", "bitshuffle-lz4")
CODE = np.dtype("<i2")
CLASS = np.dtype("u1")
ROW_ALIGNMENT = 64  # bytes of a row of codes: the file's chunks start at multiples of it
# One row per chunk: where it is in the file, its bytes there, and their CRC-32.
CHUNK_ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4")])

_BITS = CHUNK.bit_length() - 1
_LZ4_HEADER = 16  # bytes before the compressed ones: of the chunk (8), of its only block (4), compressed (4)


class DamagedChunk(Exception):
    """A chunk's bytes are not those that were packed."""


class RowBuffer(threading.local):
    """Memory that each thread uses again and again: fresh pages would cost more than what is copied into them."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def rows(self, shape: tuple[int, ...], dtype: np.dtype[np.void]) -> NDArray[np.void]:
        """An array of rows, valid until the thread asks again."""
        wanted = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < wanted:
            self._bytes = np.empty(wanted, np.uint8)
        return self._bytes[:wanted].view(dtype).reshape(shape)


@dataclass(frozen=True, eq=False)
class ChunkFile:
    """A file of chunks, and how they are read.

    Attributes:
        bytes: all of the file, memory-mapped.
        codec: of the chunks, one of `CODECS`.
        verify: compare each chunk with its checksum when it is first read.
        buffer: where rows are gathered.
    """

    bytes: NDArray[np.uint8]
    codec: str
    verify: bool
    buffer: RowBuffer = field(default_factory=RowBuffer)


@dataclass(frozen=True, eq=False)
class ChunkedVolume:
    """One stored array, int16 codes or uint8 classes.

    Attributes:
        file: in which its chunks are.
        dtype: `CODE` or `CLASS`.
        shape_zyx: voxels.
        table: `CHUNK_ROW` of each chunk, chunks in z, y, x order.
    """

    file: ChunkFile
    dtype: np.dtype[Any]
    shape_zyx: Triple
    table: NDArray[np.void]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(self.table["size"].sum(dtype=np.int64))

    def read(
        self, start_3: Sequence[int], size_3: Sequence[int], outside: int, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Read the box `start_3` ... `start_3 + size_3`; voxels outside the volume have the value `outside`.

        Args:
            start_3, size_3: of the box.
            outside: value beyond the volume.
            out: where to put it, of shape `size_3`; None: a new array.

        Raises:
            DamagedChunk: a chunk differs from its checksum, or cannot be decoded.
        """
        box = np.empty(size_3, self.dtype.newbyteorder("=")) if out is None else out
        (z0, y0, x0), (depth, height, width) = start_3, size_3
        z1, y1, x1 = z0 + depth, y0 + height, x0 + width
        end_z, end_y, end_x = self.shape_zyx
        inner = box
        if z0 < 0 or y0 < 0 or x0 < 0 or z1 > end_z or y1 > end_y or x1 > end_x:
            box[...] = outside
            low_3 = max(z0, 0), max(y0, 0), max(x0, 0)
            z1, y1, x1 = min(z1, end_z), min(y1, end_y), min(x1, end_x)
            if low_3[0] >= z1 or low_3[1] >= y1 or low_3[2] >= x1:
                return box
            inner = box[low_3[0] - z0 : z1 - z0, low_3[1] - y0 : y1 - y0, low_3[2] - x0 : x1 - x0]
            z0, y0, x0 = low_3
        if self.file.verify:
            self._check((z0, y0, x0), (z1, y1, x1))
        copy = self._gather if self.file.codec == "none" else self._decode
        copy((z0, y0, x0), (z1, y1, x1), inner)
        return box

    def damaged(self) -> list[Triple]:
        """Chunks (z, y, x) that differ from their checksum; reads all of the volume."""
        return [place for place in np.ndindex(self._shape_in_chunks) if not self._intact(place)]

    @cached_property
    def _shape_in_chunks(self) -> Triple:
        z, y, x = (-(-n // CHUNK) for n in self.shape_zyx)
        return z, y, x

    @cached_property
    def _chunks(self) -> NDArray[np.void]:
        return self.table.reshape(self._shape_in_chunks)

    @cached_property
    def _rows(self) -> NDArray[np.void]:
        """The file as rows of 32 voxels."""
        width = CHUNK * self.dtype.itemsize
        return self.file.bytes[: len(self.file.bytes) // width * width].view(f"V{width}")

    @cached_property
    def _row_of_z(self) -> NDArray[np.int64]:
        """Number of the first row of each z, (D)."""
        _, chunks_y, chunks_x = self._shape_in_chunks
        first = int(self.table["offset"][0]) // (CHUNK * self.dtype.itemsize)
        z = np.arange(self.shape_zyx[0])
        rows: NDArray[np.int64] = first + (z >> _BITS) * chunks_y * chunks_x * CHUNK**2 + z % CHUNK * CHUNK
        return rows

    @cached_property
    def _row_of_yx(self) -> NDArray[np.int64]:
        """What y and a column of chunks add to it, (H, columns): a volume's chunks stand in a row in the file."""
        chunks_x = self._shape_in_chunks[2]
        y = np.arange(self.shape_zyx[1])
        row_of_y = (y >> _BITS) * chunks_x * CHUNK**2 + y % CHUNK
        rows: NDArray[np.int64] = row_of_y[:, None] + np.arange(chunks_x) * CHUNK**2
        return rows

    @cached_property
    def _seen(self) -> NDArray[np.bool_]:
        return np.zeros(self._shape_in_chunks, dtype=np.bool_)

    def _gather(self, low_3: Triple, high_3: Triple, box: NDArray[Any]) -> None:
        (z0, y0, x0), (z1, y1, x1) = low_3, high_3
        columns = slice(x0 >> _BITS, (x1 - 1 >> _BITS) + 1)
        row_of_yx = self._row_of_yx[y0:y1, columns].copy()  # in one piece, so that the sum runs along both axes
        rows = self._row_of_z[z0:z1, None, None] + row_of_yx
        gathered = self._rows.take(rows, mode="clip", out=self.file.buffer.rows(rows.shape, self._rows.dtype))
        voxels = gathered.view(self.dtype).reshape(z1 - z0, y1 - y0, -1)
        box[...] = voxels[:, :, x0 % CHUNK : x0 % CHUNK + x1 - x0]

    def _decode(self, low_3: Triple, high_3: Triple, box: NDArray[Any]) -> None:
        axes = [_overlaps(low, high) for low, high in zip(low_3, high_3, strict=True)]
        for (i, from_z, to_z), (j, from_y, to_y), (k, from_x, to_x) in itertools.product(*axes):
            chunk = _decompressed(self._bytes((i, j, k)), self.dtype)
            box[to_z, to_y, to_x] = chunk[from_z, from_y, from_x]

    def _bytes(self, place: Triple) -> NDArray[np.uint8]:
        row = self._chunks[place]
        offset = int(row["offset"])
        return self.file.bytes[offset : offset + int(row["size"])]

    def _intact(self, place: Triple) -> bool:
        return zlib.crc32(self._bytes(place).data) == int(self._chunks[place]["crc"])

    def _check(self, low_3: Triple, high_3: Triple) -> None:
        first = [low >> _BITS for low in low_3]
        seen = self._seen[tuple(slice(a, (high - 1 >> _BITS) + 1) for a, high in zip(first, high_3, strict=True))]
        if seen.all():
            return
        for place in np.argwhere(~seen) + first:
            z, y, x = place.tolist()
            if not self._intact((z, y, x)):
                raise DamagedChunk(f"chunk {z}, {y}, {x} differs from its checksum")
        seen[...] = True


def require_codec(codec: str) -> None:
    """Check that the libraries of a codec are installed.

    Raises:
        BadInput: unknown codec, or one of its libraries is missing.
    """
    if codec not in CODECS:
        raise BadInput(f"preprocessing.codec = {codec!r}: give one of {', '.join(CODECS)}")
    if codec == "none":
        return
    try:
        import hdf5plugin  # noqa: F401
        import imagecodecs  # noqa: F401
    except ImportError as error:
        raise BadInput(f"the codec {codec} needs the package {error.name}; pip install 'hpcseg[compression]'") from None


def _decompressed(data: NDArray[np.uint8], dtype: np.dtype[Any]) -> NDArray[Any]:
    import imagecodecs

    try:
        shuffled = imagecodecs.lz4_decode(data[_LZ4_HEADER:].tobytes(), out=CHUNK**3 * dtype.itemsize)
        plain = imagecodecs.bitshuffle_decode(shuffled, itemsize=dtype.itemsize, blocksize=CHUNK**3)
    except (RuntimeError, ValueError) as error:
        raise DamagedChunk(f"a chunk cannot be decoded ({error})") from None
    return np.frombuffer(plain, dtype).reshape(CHUNK, CHUNK, CHUNK)


def _overlaps(low: int, high: int) -> list[tuple[int, slice, slice]]:
    """Chunks of one axis that the box meets: chunk index, where in the chunk, where in the box."""
    found = []
    for index in range(low >> _BITS, (high - 1 >> _BITS) + 1):
        edge = index * CHUNK
        begin, end = max(low, edge), min(high, edge + CHUNK)
        found.append((index, slice(begin - edge, end - edge), slice(begin - low, end - low)))
    return found
