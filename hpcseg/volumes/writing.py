"""Writing a chunk store: cases one after the other, then the index, then the seal. The format: `store`."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p
from numpy.typing import NDArray

from hpcseg.errors import StoreError
from hpcseg.owners import no_link
from hpcseg.spec import PackSpec
from hpcseg.volumes.chunks import CHUNK, CHUNK_ROW, ROW_ALIGNMENT
from hpcseg.volumes.packed_case import PackedCase
from hpcseg.volumes.seal import SEAL_BYTES, VERSION, Seal, file_digest
from hpcseg.volumes.store import FORMAT, LEVELS, Store


class StoreWriter:
    """Writes a new store; it can be opened once `finish` has been called.

    Equal cases written in the same order give the same bytes.

    Args:
        path: of the file; nothing may be there.
        spec: whose spacing, classes, clip and codec the store has.
    """

    def __init__(self, path: Path, spec: PackSpec) -> None:
        self._path = path
        self._attributes = _attributes(spec)
        self._codec = spec.codec
        self._file = h5py.File(
            path,
            "x",
            locking=False,
            libver=("v110", "v110"),  # from then on, chunks that never change size stand in a row
            userblock_size=SEAL_BYTES,
            alignment_threshold=CHUNK**3,  # the size of the smallest chunk
            alignment_interval=ROW_ALIGNMENT,
        )
        for key, value in self._attributes.items():
            self._file.attrs[key] = value
        self._cases = self._file.create_group("cases")
        self._index: dict[str, Any] = {}
        self._tables: list[NDArray[np.void]] = []
        self._rows = 0

    def close(self) -> None:
        """Let go of the file; without `finish` before it, what was written is no store."""
        self._file.close()

    def add(self, case: PackedCase) -> None:
        """Write one case."""
        group = self._cases.create_group(case.name)
        for key, value in case.attributes.items():
            group.attrs[key] = value
        for key, array in case.arrays.items():
            if array.ndim == 3:
                room = tuple(max(n, CHUNK) for n in array.shape)  # h5py wants room for a whole chunk
                group.create_dataset(key, data=array, chunks=(CHUNK,) * 3, maxshape=room, **self._layout())
            else:
                group.create_dataset(key, data=array)
        self._note(case.name)

    def add_all(self, part: Path) -> None:
        """Copy every case of another store, chunk by chunk, without decoding.

        Raises:
            StoreError: the other store is damaged, or has changed on the way.
        """
        with Store(part) as other, h5py.File(part, "r", locking=False) as source:
            for name in other.names:
                source.copy(source[f"cases/{name}"], self._cases, name=name)
                if self._note(name) != other.checksums(name):
                    raise StoreError(f"{part}: case {name!r} was altered after packing; delete the file and pack again")

    def finish(self) -> None:
        """Write table, index and seal."""
        table = np.concatenate(self._tables) if self._tables else np.zeros(0, CHUNK_ROW)
        chunks = self._file.create_dataset("chunks", data=table)
        whole = {
            "attributes": {key: _plain(value) for key, value in self._attributes.items()},
            "chunks": [chunks.id.get_offset() or 0, len(table)],
            "cases": {name: json.dumps(entry, separators=(",", ":")) for name, entry in self._index.items()},
        }
        text = json.dumps(whole, separators=(",", ":")).encode()
        index = self._file.create_dataset("index", data=np.frombuffer(text, np.uint8))
        offset = index.id.get_offset()
        self._file.close()
        seal = Seal(
            size=self._path.stat().st_size,
            digest=file_digest(self._path),
            index_offset=offset,
            index_size=len(text),
            index_digest=hashlib.sha256(text).hexdigest(),
        )
        with open(self._path, "r+b", opener=no_link) as file:
            file.write(seal.to_bytes())

    def _layout(self) -> dict[str, Any]:
        """How h5py is to lay out a volume."""
        if self._codec == "none":
            properties = h5p.create(h5p.DATASET_CREATE)
            properties.set_alloc_time(h5d.ALLOC_TIME_EARLY)
            return {"dcpl": properties}
        import hdf5plugin

        return dict(hdf5plugin.Bitshuffle(nelems=CHUNK**3, cname="lz4"))  # one block per chunk: decoded in one go

    def _note(self, name: str) -> dict[str, bytes]:
        """Enter a written case in the index: where HDF5 put its arrays, and the checksums of what stands there.

        Returns:
            As `Store.checksums`.
        """
        group = self._cases[name]
        self._file.flush()
        data = np.memmap(self._path, dtype=np.uint8, mode="r")
        entry: dict[str, Any] = {"attributes": {key: _plain(value) for key, value in group.attrs.items()}}
        entry |= {"volumes": {}, "arrays": {}}
        checksums = {}
        for key, dataset in group.items():
            if dataset.chunks is None:
                offset = dataset.id.get_offset() or 0
                crc = zlib.crc32(data[offset : offset + dataset.nbytes].data)
                place = {"dtype": dataset.dtype.str, "shape": dataset.shape, "offset": offset, "crc": crc}
                entry["arrays"][key] = place
                checksums[key] = crc.to_bytes(4, "little")
            else:
                table = _chunk_table(dataset, data)
                if self._codec == "none" and not _in_a_row(table):
                    raise StoreError(
                        f"{self._path}: this HDF5 library scatters the chunks of {key}; install h5py from PyPI"
                    )
                crc = zlib.crc32(table.view(np.uint8).data)
                place = {"shape": dataset.shape, "first": self._rows, "chunks": len(table), "crc": crc}
                entry["volumes"][key] = place
                self._tables.append(table)
                self._rows += len(table)
                checksums[key] = table["crc"].tobytes()
        self._index[name] = entry
        return checksums


def _attributes(spec: PackSpec) -> dict[str, Any]:
    """The attributes of the file."""
    attributes = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": spec.dataset,
        "id": spec.id,
        "spacing_zyx": np.array(spec.spacing_zyx, dtype=np.float64),
        "levels": LEVELS,
        "classes": json.dumps(spec.classes),
        "codec": spec.codec,
    }
    if spec.pyramid_clip is not None:
        attributes["pyramid_clip"] = np.array(spec.pyramid_clip, dtype=np.float64)
    return attributes


def _chunk_table(dataset: Any, data: NDArray[np.uint8]) -> NDArray[np.void]:
    """`CHUNK_ROW` of each chunk of a dataset, in z, y, x order."""
    table = np.zeros([-(-n // CHUNK) for n in dataset.shape], CHUNK_ROW)

    def note(chunk: Any) -> None:
        crc = zlib.crc32(data[chunk.byte_offset : chunk.byte_offset + chunk.size].data)
        table[tuple(start // CHUNK for start in chunk.chunk_offset)] = (chunk.byte_offset, chunk.size, crc)

    dataset.id.chunk_iter(note)
    return table.ravel()


def _in_a_row(table: NDArray[np.void]) -> bool:
    """Whether chunks follow each other in the file, each where a row of the map begins."""
    offsets, size = table["offset"].astype(np.int64), int(table["size"][0])
    return bool(offsets[0] % ROW_ALIGNMENT == 0 and (offsets == offsets[0] + size * np.arange(len(table))).all())


def _plain(value: Any) -> Any:
    """An HDF5 attribute as JSON knows it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
