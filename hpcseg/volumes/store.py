"""Reading the chunk store: one HDF5 file per dataset and spacing, read through one memory map.

Shapes: `volume_zyx` and boxes are z, y, x; `start_3`, `size_3` are z, y, x in voxels of the level that is read.

Format 1 (any HDF5 reader opens it; floats are float64, integers int64 unless said otherwise):

    /                   attributes: format "hpcseg-store", version 1, dataset, id, spacing_zyx (3; mm), levels 4,
                        classes (JSON: label values of class 1, 2, ...; [] = all but 0 are class 1),
                        pyramid_clip (2; absent: no clip), complete (written last)
    /cases/<name>       attributes: slope, intercept, padding, labelled (bool), source_digest,
                        affine (4, 4), file_shape (3; x, y, z), crop (3, 2; canonical voxels), checksum (sha256)
        image_0 ... image_3              int16 (D, H, W), chunks 32³; intensity = code · slope + intercept.
                                         Level l is the 2³ mean of level l − 1, its shape ⌈n / 2⌉ of it.
        label                            uint8 (D, H, W), chunks 32³: class of each voxel of level 0 (labelled cases)
        foreground_1 ... foreground_K    int32 (N, 3): up to 10,000 voxels of each class, sorted (labelled cases)
        histogram_codes, _counts         int16, int64 (M): codes that occur in level 0, ascending, and how often
        foreground_codes, _counts        the same for the voxels of level 0 with any class but 0

Chunks are uncompressed, so that a chunk is 32³ values in a row at the byte offset that HDF5 reports.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import StoreError
from hpcseg.spec import Spacing

FORMAT = "hpcseg-store"
VERSION = 1
LEVELS = 4
CHUNK = 32

Triple = tuple[int, int, int]
Histogram = tuple[NDArray[np.int16], NDArray[np.int64]]


class Store:
    """A store opened for reading; reads from several threads need no lock.

    Attributes:
        names: the cases, sorted.
        spacing_zyx: mm.
        classes: label values of class 1, 2, ...; (): every value but 0 is class 1.
        pyramid_clip: intensities that levels 1 and up were clipped to, or None.
        levels: number of resolution levels.
        attrs: all attributes of the file.

    Raises:
        StoreError: the file is missing, not a store, half-written or made by another version.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise StoreError(f"{self.path}: no such store; pack the dataset first")
        try:
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise StoreError(f"{self.path}: not a readable HDF5 file ({error}); delete it and pack again") from None
        try:
            self._read_header()
            self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")
        except BaseException:
            self._file.close()
            raise
        self._cases: dict[str, StoredCase] = {}

    def _read_header(self) -> None:
        attributes = dict(self._file.attrs)
        if attributes.get("format") != FORMAT:
            raise StoreError(f"{self.path}: not a store of hpcseg; delete it and pack again")
        if attributes.get("version") != VERSION:
            raise StoreError(
                f"{self.path}: store version {attributes.get('version')}, but this hpcseg reads version {VERSION}; "
                "delete it and pack again"
            )
        if not attributes.get("complete", False):
            raise StoreError(f"{self.path}: the store is half-written; delete it and pack again")
        try:
            self.attrs: dict[str, Any] = attributes
            self.names: tuple[str, ...] = tuple(sorted(self._file["cases"]))
            z, y, x = attributes["spacing_zyx"].tolist()
            self.spacing_zyx: Spacing = (z, y, x)
            self.classes: tuple[tuple[int, ...], ...] = tuple(map(tuple, json.loads(attributes["classes"])))
            clip = attributes.get("pyramid_clip")
            self.pyramid_clip: tuple[float, float] | None = None if clip is None else (float(clip[0]), float(clip[1]))
            self.levels: int = int(attributes["levels"])
        except (KeyError, ValueError) as error:
            raise StoreError(f"{self.path}: the store is damaged ({error}); delete it and pack again") from None

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays that were read stay valid, cases can no longer be read."""
        self._file.close()
        self._cases.clear()
        del self._bytes

    def case(self, name: str) -> StoredCase:
        """Return one case; asking again gives the same object.

        Raises:
            StoreError: the store has no such case, or lacks something of it.
        """
        case = self._cases.get(name)
        if case is None:
            if name not in self._file["cases"]:
                raise StoreError(f"{self.path}: no case {name!r}; pack again from a dataset that has it")
            case = self._cases.setdefault(name, StoredCase(self, name))
        return case


class StoredCase:
    """One case of an open store.

    Attributes:
        name: of the case.
        shape_zyx: of level 0, voxels.
        slope, intercept: intensity = code · slope + intercept.
        padding: intensity outside the volume.
        labelled: whether the case has a label.
        attrs: all attributes of the case's group.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.path = store.path
        self._group = store._file["cases"][name]
        self._bytes = store._bytes
        self._n_classes = max(1, len(store.classes))
        self._tables: dict[str, tuple[Triple, NDArray[np.int64]]] = {}
        try:
            self.attrs: dict[str, Any] = dict(self._group.attrs)
            self.slope = float(self.attrs["slope"])
            self.intercept = float(self.attrs["intercept"])
            self.padding = float(self.attrs["padding"])
            self.labelled = bool(self.attrs["labelled"])
            z, y, x = self._group["image_0"].shape
        except (KeyError, ValueError) as error:
            raise self._damaged(error) from None
        self.shape_zyx: Triple = (z, y, x)
        inner = self.padding if store.pyramid_clip is None else float(np.clip(self.padding, *store.pyramid_clip))
        self._padding_codes = (self._code(self.padding), *(self._code(inner),) * (store.levels - 1))

    def read(self, level: int, start_3: Sequence[int], size_3: Sequence[int]) -> NDArray[np.int16]:
        """Read the box `start_3` ... `start_3 + size_3` of a level, voxels of that level's own grid.

        Returns:
            Codes, int16, shape `size_3`. Outside the volume: the code of the padding, from level 1 on of the
            padding clipped to `pyramid_clip`.
        """
        return self._read(f"image_{level}", np.dtype("<i2"), start_3, size_3, self._padding_codes[level])

    def read_label(self, start_3: Sequence[int], size_3: Sequence[int]) -> NDArray[np.uint8]:
        """Read a box of the label at level 0: uint8 classes, shape `size_3`, 0 outside the volume.

        Raises:
            StoreError: the case is not labelled.
        """
        if not self.labelled:
            raise StoreError(f"{self.path}: case {self.name!r} has no label")
        return self._read("label", np.dtype(np.uint8), start_3, size_3, 0)

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Turn codes into intensities (float32)."""
        values = codes.astype(np.float32)
        values *= np.float32(self.slope)
        values += np.float32(self.intercept)
        return values

    @cached_property
    def foreground_by_class(self) -> dict[int, NDArray[np.int32]]:
        """Class -> up to 10,000 of its voxels, int32 (N, 3), level-0 z, y, x, sorted; {} without a label."""
        if not self.labelled:
            return {}
        return {index: self._array(f"foreground_{index}") for index in range(1, self._n_classes + 1)}

    @cached_property
    def histogram(self) -> Histogram:
        """Codes of level 0 (int16, ascending) and how often each occurs (int64)."""
        return self._array("histogram_codes"), self._array("histogram_counts")

    @cached_property
    def foreground_histogram(self) -> Histogram:
        """Codes of the foreground voxels of level 0 and their counts, as in `histogram`; empty without a label."""
        return self._array("foreground_codes"), self._array("foreground_counts")

    def _code(self, value: float) -> int:
        return int(np.clip(np.rint((value - self.intercept) / self.slope), -32768, 32767))

    def _array(self, key: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = self._group[key][()]
        except (KeyError, OSError) as error:
            raise self._damaged(error) from None
        return array

    def _damaged(self, error: Exception) -> StoreError:
        reason = " ".join(str(error).split())
        return StoreError(f"{self.path}: case {self.name!r} is damaged ({reason}); delete the store and pack again")

    def _read(
        self, key: str, dtype: np.dtype[Any], start_3: Sequence[int], size_3: Sequence[int], outside: int
    ) -> NDArray[Any]:
        table = self._tables.get(key)
        if table is None:
            table = self._tables.setdefault(key, self._chunk_table(key, dtype))
        shape, offsets = table
        inside = all(a >= 0 and a + n <= s for a, n, s in zip(start_3, size_3, shape, strict=True))
        box = np.empty(size_3, dtype.newbyteorder("=")) if inside else np.full(size_3, outside, dtype.newbyteorder("="))
        axes = [_overlaps(a, n, s) for a, n, s in zip(start_3, size_3, shape, strict=True)]
        for (i, from_z, to_z), (j, from_y, to_y), (k, from_x, to_x) in itertools.product(*axes):
            chunk = np.ndarray((CHUNK, CHUNK, CHUNK), dtype, self._bytes, offsets[i, j, k])
            box[to_z, to_y, to_x] = chunk[from_z, from_y, from_x]
        return box

    def _chunk_table(self, key: str, dtype: np.dtype[Any]) -> tuple[Triple, NDArray[np.int64]]:
        """Shape of a dataset and the byte offset of each of its chunks."""
        try:
            dataset = self._group[key]
        except KeyError as error:
            raise self._damaged(error) from None
        if dataset.chunks != (CHUNK,) * 3 or dataset.compression is not None or dataset.dtype != dtype:
            raise self._damaged(ValueError(f"{key} has another layout"))
        shape: Triple = dataset.shape
        offsets = np.zeros([-(-n // CHUNK) for n in shape], dtype=np.int64)

        def note(chunk: Any) -> None:
            offsets[tuple(start // CHUNK for start in chunk.chunk_offset)] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        if offsets.min() <= 0 or offsets.max() + CHUNK**3 * dtype.itemsize > self._bytes.size:
            raise self._damaged(ValueError(f"{key} lacks chunks"))
        return shape, offsets


def _overlaps(start: int, size: int, length: int) -> list[tuple[int, slice, slice]]:
    """Chunks of one axis that the box meets: chunk index, where in the chunk, where in the box."""
    begin, end = max(start, 0), min(start + size, length)
    found = []
    for index in range(begin // CHUNK, -(-end // CHUNK)) if begin < end else ():
        edge = index * CHUNK
        low, high = max(begin, edge), min(end, edge + CHUNK)
        found.append((index, slice(low - edge, high - edge), slice(low - start, high - start)))
    return found


def case_checksum(attributes: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """sha256 over a case's attributes (but `checksum`) and datasets, names in order; arrays may be HDF5 datasets."""
    digest = hashlib.sha256()
    for key in sorted(attributes.keys() - {"checksum"}):
        digest.update(json.dumps([key, np.asarray(attributes[key]).tolist()]).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key][()])
        digest.update(json.dumps([key, array.dtype.str, array.shape]).encode())
        digest.update(array.data)
    return digest.hexdigest()


def verify(store: Store) -> list[str]:
    """Compare every case with its checksum; read all of the file.

    Returns:
        One line per problem; empty if the store is as it was packed.
    """
    problems = []
    for name in store.names:
        group = store._file["cases"][name]
        try:
            attributes = dict(group.attrs)
            if "checksum" not in attributes:
                problems.append(f"{store.path}: case {name!r} has no checksum; delete the store and pack again")
            elif case_checksum(attributes, group) != attributes["checksum"]:
                problems.append(
                    f"{store.path}: case {name!r} was altered after packing; delete the store and pack again"
                )
            store.case(name)
        except StoreError as error:
            problems.append(str(error))
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            problems.append(f"{store.path}: case {name!r} cannot be read ({reason}); delete the store and pack again")
    return problems
