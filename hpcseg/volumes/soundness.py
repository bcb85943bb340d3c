"""Whether what a store's index says can be true.

Whoever makes a store can also make its seal and checksums, so these prove nothing of one that was made on purpose.
Places and sizes are compared with the file before anything is read or allocated; whatever else cannot be is one line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import StoreError
from hpcseg.volumes.chunks import CHUNK, CHUNK_ROW, CLASS, CODE, CODECS, ChunkedVolume, ChunkFile
from hpcseg.volumes.seal import REMEDY, Seal

_UNSOUND = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError, RecursionError, MemoryError)
_LZ4_AT_MOST = 256  # bytes that one compressed byte can stand for
_LARGEST_INDEX = 1 << 28  # bytes: of a hundred thousand cases
_ATTRIBUTES = ("dataset", "id", "spacing_zyx", "classes", "codec")
CASE_ATTRIBUTES = ("slope", "intercept", "padding", "labelled", "source_digest", "affine", "file_shape", "crop")
Part = TypeVar("Part", bound=np.generic)


@contextlib.contextmanager
def as_packed(path: Path, what: str) -> Iterator[None]:
    """Turn every way in which a part of a store can be other than packing makes it into StoreError, in one line."""
    try:
        yield
    except _UNSOUND as error:
        words = " ".join(str(error).split())[:100] or type(error).__name__
        found = f"{words} is missing" if isinstance(error, KeyError) else words
        raise StoreError(f"{path}: {what} is not what hpcseg packs ({found}); {REMEDY}") from None


def read_index(path: Path, content: NDArray[np.uint8], seal: Seal) -> tuple[dict[str, Any], NDArray[np.void]]:
    """The index of a store whose content is mapped, and the `CHUNK_ROW`s of all chunks.

    Raises:
        StoreError: it differs from its checksum.
        ValueError, KeyError: it is none.
    """
    index = part_of(content, seal.index_offset, seal.index_size, at_most=_LARGEST_INDEX)
    if hashlib.sha256(index.data).hexdigest() != seal.index_digest:
        raise StoreError(f"{path}: the store's index is damaged; {REMEDY}")
    parsed: dict[str, Any] = json.loads(index.tobytes())
    require_keys(parsed["attributes"], _ATTRIBUTES)
    if parsed["attributes"]["codec"] not in CODECS:
        raise ValueError(f"codec {parsed['attributes']['codec']!r}")
    if not all(0 < n < math.inf for n in parsed["attributes"]["spacing_zyx"]):
        raise ValueError("no voxel has its spacing")
    if not all(isinstance(text, str) for text in parsed["cases"].values()):
        raise TypeError("a case is no text")
    offset, rows = parsed["chunks"]
    return parsed, part_of(content, offset, rows * CHUNK_ROW.itemsize).view(CHUNK_ROW)


def require_keys(found: Mapping[str, Any], keys: Collection[str]) -> None:
    """Raise KeyError where one is missing."""
    for key in keys:
        found[key]


def part_of(whole: NDArray[Part], first: Any, count: Any, at_most: int | None = None) -> NDArray[Part]:
    """The items `first` ... `first + count` of an array (N,), as a view.

    Raises:
        ValueError: they are not all there, or more than `at_most`.
    """
    if type(first) is not int or type(count) is not int or not 0 <= first <= first + count <= len(whole):
        raise ValueError(f"{first} and {count} lead out of the file")
    if at_most is not None and count > at_most:
        raise ValueError(f"{count} are more than anything has")
    return whole[first : first + count]


def chunked_volume(file: ChunkFile, chunks: NDArray[np.void], key: str, place: Mapping[str, Any]) -> ChunkedVolume:
    """A volume that has as many chunks as its shape asks for, all of them in the file.

    Args:
        file: in which they are.
        chunks: the file's `CHUNK_ROW`s.
        key: "image_0", ..., "label".
        place: what the index says of it.

    Raises:
        ValueError: it has not, or they are too small for what would be made of them.
    """
    z, y, x = place["shape"]
    if any(type(n) is not int or n < 1 for n in (z, y, x)):
        raise ValueError(f"no volume has the shape {z}, {y}, {x}")
    if place["chunks"] != math.prod(-(-n // CHUNK) for n in (z, y, x)):
        raise ValueError(f"a volume of {z}, {y}, {x} voxels has not {place['chunks']} chunks")
    table = part_of(chunks, place["first"], place["chunks"])
    sizes, room = table["size"].astype(np.uint64), len(file.bytes)
    dtype = CLASS if key == "label" else CODE
    least = CHUNK**3 * dtype.itemsize // (1 if file.codec == "none" else _LZ4_AT_MOST)
    if sizes.min() < least or int(sizes.sum()) > room or (table["offset"] > np.uint64(room) - sizes).any():
        raise ValueError("chunks that the file does not have")
    return ChunkedVolume(file, dtype, (z, y, x), table)


def small_array(content: NDArray[np.uint8], place: Mapping[str, Any]) -> tuple[NDArray[np.uint8], np.dtype[Any]]:
    """Bytes of an array of integers, as a view, and its type.

    Raises:
        ValueError: the file does not have them, or they are no integers.
    """
    dtype, shape = np.dtype(str(place["dtype"])), place["shape"]
    if dtype.kind not in "iu" or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"no array has the type {dtype} and the shape {shape}")
    return part_of(content, place["offset"], math.prod(shape) * dtype.itemsize), dtype
