"""Reading the chunk store: one HDF5 file per dataset and spacing, read through one memory map.

Shapes: `volume_zyx` and boxes are z, y, x; `start_3`, `size_3` are z, y, x in voxels of the level that is read.

Format 2 (any HDF5 reader opens it; floats are float64, integers int64 unless said otherwise):

    first 512 bytes     the seal (`seal`): digest of the rest, where the index lies; HDF5's user block
    /                   attributes: format "hpcseg-store", version 2, dataset, id, spacing_zyx (3; mm), levels 4,
                        classes (JSON: label values of class 1, 2, ...; [] = all but 0 are class 1),
                        pyramid_clip (2; absent: no clip), codec ("none" or "bitshuffle-lz4")
    /cases/<name>       attributes: slope, intercept, padding, labelled (bool), source_digest,
                        affine (4, 4), file_shape (3; x, y, z), crop (3, 2; canonical voxels), ignored (int; see label)
        image_0 ... image_3              int16 (D, H, W), chunks 32³; intensity = code · slope + intercept.
                                         Level l is the 2³ mean of level l − 1, its shape ⌈n / 2⌉ of it.
        label                            uint8 (D, H, W), chunks 32³: class of each voxel of level 0 (labelled cases);
                                         255: none that is known, as in `ignored` voxels (absent: 0) of a scan's label
        known                            int32 (N, 3): up to 10,000 voxels that are not 255, sorted, where some are
        foreground_1 ... foreground_K    int32 (N, 3): up to 10,000 voxels of each class, sorted (labelled cases)
        histogram_codes, _counts         int16, int64 (M): codes that occur in level 0, ascending, and how often
        foreground_codes, _counts        the same for the voxels of level 0 with any class but 0
    /chunks             byte offset, size and CRC-32 of every chunk (`chunks.CHUNK_ROW`)
    /index              JSON: all attributes, and of each case, as JSON text, its attributes and of every array the
                        shape, place and CRC-32

A store of pseudo-labels is the same without image_0 ... and histograms.

The index and the table of chunks repeat what HDF5 knows, so that a store of thousands of cases opens with two reads,
and voxels are read without the HDF5 library, its lock, or a look at bytes that no checksum covers.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcseg.errors import StoreError
from hpcseg.spec import Spacing
from hpcseg.volumes import soundness
from hpcseg.volumes.boxes import Triple
from hpcseg.volumes.chunks import ChunkedVolume, ChunkFile, DamagedChunk, require_codec
from hpcseg.volumes.pyramid import Coding, Histogram, padding_codes
from hpcseg.volumes.seal import read_seal

FORMAT = "hpcseg-store"
LEVELS = 4


class Store:
    """A store opened for reading; reads from several threads need no lock.

    The index is compared with its checksum on opening, small arrays whenever they are read, and with `verify` every
    chunk of voxels when it is first read.

    Args:
        path: of the store.
        verify: whether voxels are compared with their checksums.

    Attributes:
        names: the cases, sorted.
        spacing_zyx: mm.
        classes: label values of class 1, 2, ...; (): every value but 0 is class 1.
        pyramid_clip: intensities that levels 1 and up were clipped to, or None.
        codec: how chunks are compressed, or "none".
        nbytes: of the file.
        attrs: all attributes of the file.

    Raises:
        StoreError: the file is missing, not a store, half-written, cut, altered or made by another version.
    """

    def __init__(self, path: Path | str, *, verify: bool = False) -> None:
        self.path = Path(path)
        seal = read_seal(self.path)
        self.nbytes = seal.size
        # A plain array on the map: slices of np.memmap itself are slow to make.
        content: NDArray[np.uint8] = np.asarray(np.memmap(self.path, dtype=np.uint8, mode="r"))
        with soundness.as_packed(self.path, "its index"):
            parsed, self._chunks = soundness.read_index(self.path, content, seal)
            self._index: dict[str, str] = parsed["cases"]
            self._cases: dict[str, StoredCase] = {}
            self.attrs: dict[str, Any] = parsed["attributes"]
            self.names: tuple[str, ...] = tuple(sorted(self._index))
            z, y, x = self.attrs["spacing_zyx"]
            self.spacing_zyx: Spacing = (z, y, x)
            self.classes: tuple[tuple[int, ...], ...] = tuple(map(tuple, json.loads(self.attrs["classes"])))
            clip = self.attrs.get("pyramid_clip")
            self.pyramid_clip: tuple[float, float] | None = None if clip is None else (clip[0], clip[1])
            self.codec: str = self.attrs["codec"]
            require_codec(self.codec)
            self._file: ChunkFile | None = ChunkFile(content, self.codec, verify)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; arrays that were read stay valid, cases can no longer be asked for."""
        self._cases.clear()
        self._file = None

    def case(self, name: str) -> StoredCase:
        """Return one case; asking again gives the same object.

        Raises:
            StoreError: the store has no such case.
        """
        case = self._cases.get(name)
        if case is None:
            if name not in self._index:
                raise StoreError(f"{self.path}: no case {name!r}; pack again from a dataset that has it")
            if self._file is None:
                raise StoreError(f"{self.path}: the store was closed")
            with soundness.as_packed(self.path, f"case {name!r}"):
                case = StoredCase(self, name, self._index[name], self._file, self._chunks)
            case = self._cases.setdefault(name, case)
        return case

    def checksums(self, name: str) -> dict[str, bytes]:
        """CRC-32 of what a case holds, by array: one for a small array, one per chunk for a volume (little-endian)."""
        with soundness.as_packed(self.path, f"case {name!r}"):
            entry = json.loads(self._index[name])
            found = {key: place["crc"].to_bytes(4, "little") for key, place in entry["arrays"].items()}
            for key, place in entry["volumes"].items():
                found[key] = soundness.part_of(self._chunks, place["first"], place["chunks"])["crc"].tobytes()
        return found


class StoredCase:
    """One case of an open store.

    Attributes:
        name: of the case.
        path: of the store.
        shape_zyx: of level 0, voxels.
        coding: what the codes of all levels stand for.
        padding: intensity outside the volume.
        paddings: its code at each level; from level 1 on of the padding clipped to `pyramid_clip`.
        labelled: whether the case has a label.
        foreground_classes: classes of which it has voxels, ascending.
        ignored: voxels that whoever made the label left out.
        parts: the cases that images and labels were taken from; None: its own.
    """

    def __init__(self, store: Store, name: str, text: str, file: ChunkFile, chunks: NDArray[np.void]) -> None:
        self.name, self.path = name, store.path
        entry = json.loads(text)
        attributes, arrays = entry["attributes"], entry["arrays"]
        self.coding = Coding(float(attributes["slope"]), float(attributes["intercept"]))
        self.padding, self.labelled = float(attributes["padding"]), bool(attributes["labelled"])
        self.ignored = int(attributes.get("ignored", 0))
        self._text = text  # parsed again for those that are read: thousands of open cases stay small
        self._n_classes = max(1, len(store.classes))
        keys = ((index, f"foreground_{index}") for index in range(1, self._n_classes + 1))
        self.foreground_classes = tuple(index for index, key in keys if key in arrays and arrays[key]["shape"][0])
        self._file, self._chunks = file, chunks
        self._volumes: dict[str, ChunkedVolume] = {}
        soundness.require_keys(attributes, soundness.CASE_ATTRIBUTES)
        key = "image_0" if "image_0" in entry["volumes"] else "label"
        self.shape_zyx: Triple = soundness.chunked_volume(file, chunks, key, entry["volumes"][key]).shape_zyx
        self.parts: tuple[StoredCase | None, StoredCase | None] = (None, None)
        self.paddings = padding_codes(self.coding, self.padding, store.pyramid_clip, LEVELS)

    def with_labels(self, labels: StoredCase) -> StoredCase:
        """The images of this case with the labels of another one.

        Raises:
            StoreError: they are of another grid.
        """
        if labels.shape_zyx != self.shape_zyx:
            raise StoreError(
                f"{labels.path}: labels of {self.name!r} are of another grid than {self.path}; delete them"
            )
        other = copy.copy(self)
        other.__dict__.pop("foreground_by_class", None)
        other.ignored = labels.ignored
        other.parts, other.labelled = (self.parts[0] or self, labels), True
        other.foreground_classes = labels.foreground_classes
        return other

    @property
    def attrs(self) -> dict[str, Any]:
        """All attributes of the case's group."""
        attributes: dict[str, Any] = self._entry["attributes"]
        return attributes

    @cached_property
    def _entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = json.loads(self._text)
        return entry

    @property
    def nbytes(self) -> int:
        """Bytes of the case's voxels in the file."""
        return sum(self._volume(key).nbytes for key in self._entry["volumes"])

    @property
    def extent(self) -> tuple[int, int]:
        """First byte, and number of bytes, of the part of the file in which all voxels of the case lie."""
        tables = [self._volume(key).table for key in self._entry["volumes"]]
        first = min(int(table["offset"].min()) for table in tables)
        return first, max(int((table["offset"] + table["size"]).max()) for table in tables) - first

    def shape_of(self, level: int) -> Triple:
        """Voxels of a level."""
        return self._volume(f"image_{level}").shape_zyx

    def read(
        self, level: int, start_3: Sequence[int], size_3: Sequence[int], out: NDArray[np.int16] | None = None
    ) -> NDArray[np.int16]:
        """Read the box `start_3` ... `start_3 + size_3` of a level, voxels of that level's own grid.

        Args:
            level: 0 is the finest.
            start_3, size_3: of the box, which may reach beyond the volume.
            out: int16 array of shape `size_3` to read into; None: a new one.

        Returns:
            Codes, int16, shape `size_3`; `paddings[level]` outside the volume.

        Raises:
            StoreError: with the store's `verify`: the voxels are not those that were packed.
        """
        return self._read(f"image_{level}", start_3, size_3, self.paddings[level], out)

    def read_label(
        self, start_3: Sequence[int], size_3: Sequence[int], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read a box of the label at level 0: uint8 classes, shape `size_3`, 0 outside the volume.

        Raises:
            StoreError: the case is not labelled; or as `read`.
        """
        if (labels := self.parts[1]) is not None:
            return labels.read_label(start_3, size_3, out)
        if not self.labelled:
            raise StoreError(f"{self.path}: case {self.name!r} has no label")
        return self._read("label", start_3, size_3, 0, out)

    @cached_property
    def foreground_by_class(self) -> dict[int, NDArray[np.int32]]:
        """Class -> up to 10,000 of its voxels, int32 (N, 3), level-0 z, y, x, sorted; {} without a label."""
        if (labels := self.parts[1]) is not None:
            return labels.foreground_by_class
        if not self.labelled:
            return {}
        return {index: self._array(f"foreground_{index}") for index in range(1, self._n_classes + 1)}

    @property
    def known_voxels(self) -> NDArray[np.int32] | None:
        """Up to 10,000 voxels that are not left out, int32 (N, 3); None where no voxel is."""
        return self._array("known") if self.ignored else None

    @cached_property
    def histogram(self) -> Histogram:
        """Intensities of level 0."""
        return self._histogram("histogram")

    @cached_property
    def foreground_histogram(self) -> Histogram:
        """Intensities of the foreground voxels of level 0; empty without a label."""
        return self._histogram("foreground")

    def problems(self) -> Iterator[str]:
        """Compare everything of the case with its checksums; what differs, one phrase each."""
        for key in self._entry["arrays"]:
            try:
                self._array(key)
            except StoreError:
                yield f"{key} differs from its checksum"
        for key in self._entry["volumes"]:
            try:
                damaged = self._volume(key).damaged()
            except StoreError:
                yield f"the chunk table of {key} differs from its checksum"
                continue
            if damaged:
                yield f"{key}: {len(damaged)} chunks differ from their checksums, the first at {damaged[0]}"

    def _histogram(self, name: str) -> Histogram:
        return self.coding.decode(self._array(f"{name}_codes")), self._array(f"{name}_counts")

    def _array(self, key: str) -> NDArray[Any]:
        with soundness.as_packed(self.path, f"{key} of case {self.name!r}"):
            entry = self._entry["arrays"][key]
            data, dtype = soundness.small_array(self._file.bytes, entry)
            if zlib.crc32(data.data) != entry["crc"]:
                raise self._damaged(f"{key} differs from its checksum")
            return np.frombuffer(data.tobytes(), dtype).reshape(entry["shape"])

    def _volume(self, key: str) -> ChunkedVolume:
        volume = self._volumes.get(key)
        if volume is None:
            with soundness.as_packed(self.path, f"{key} of case {self.name!r}"):
                entry = self._entry["volumes"][key]
                volume = soundness.chunked_volume(self._file, self._chunks, key, entry)
                if zlib.crc32(volume.table.view(np.uint8).data) != entry["crc"]:
                    raise self._damaged(f"the chunk table of {key} differs from its checksum")
                volume = self._volumes.setdefault(key, volume)
        return volume

    def _read(
        self, key: str, start_3: Sequence[int], size_3: Sequence[int], outside: int, out: NDArray[Any] | None
    ) -> NDArray[Any]:
        try:
            return self._volume(key).read(start_3, size_3, outside, out)
        except DamagedChunk as error:
            raise self._damaged(f"{key}: {error}") from None

    def _damaged(self, reason: str) -> StoreError:
        return StoreError(f"{self.path}: case {self.name!r} is damaged ({reason}); delete the store and pack again")
