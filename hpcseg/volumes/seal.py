"""The seal of a store: its first 512 bytes, which tell whether all the others are as they were packed.

HDF5 leaves these bytes to the application (user block). They are written last, so a store without a seal is
half-written. The digest covers every byte after the seal, HDF5's own structures included.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hpcseg.errors import StoreError
from hpcseg.volumes.datasets import Progress

SEAL_BYTES = 512
VERSION = 2
REMEDY = "delete it and pack again"
_MAGIC = b"hpcseg-store "
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SEGMENT = 1 << 26
_HASHERS = 4


@dataclass(frozen=True)
class Seal:
    """What the seal says.

    Attributes:
        size: bytes of the whole file.
        digest: of all bytes after the seal, as `file_digest` gives it.
        index_offset, index_size: where the index lies, bytes.
        index_digest: sha256 of the index.
    """

    size: int
    digest: str
    index_offset: int
    index_size: int
    index_digest: str

    def to_bytes(self) -> bytes:
        """The 512 bytes; one seal has one form, so that no byte of it can change unseen."""
        text = _MAGIC + b"%d\n" % VERSION + json.dumps(dataclasses.asdict(self)).encode()
        return text.ljust(SEAL_BYTES, b"\0")


def read_seal(path: Path) -> Seal:
    """Read the seal and compare it with the size of the file.

    Raises:
        StoreError: the file is missing, not a store, half-written, of another version, cut, or its seal is damaged.
    """
    if not path.is_file():
        raise StoreError(f"{path}: no such store; pack the dataset first")
    try:
        with path.open("rb") as file:
            head = file.read(SEAL_BYTES)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    if _is_half_written(path, head):
        raise StoreError(f"{path}: the store is half-written; {REMEDY}")
    if not head.startswith(_MAGIC):
        raise StoreError(f"{path}: not a store of hpcseg; give one that hpcseg has packed")
    first, _, rest = head.partition(b"\n")
    if first != _MAGIC + b"%d" % VERSION:
        version = first.removeprefix(_MAGIC).decode(errors="replace")[:10]
        raise StoreError(f"{path}: store version {version}, but this hpcseg reads version {VERSION}; {REMEDY}")
    try:
        seal = Seal(**json.loads(rest.rstrip(b"\0")))
        genuine = seal.to_bytes() == head
    except (ValueError, TypeError):
        genuine = False
    if not genuine:
        raise StoreError(f"{path}: the store's seal is damaged; {REMEDY}")
    size = path.stat().st_size
    if size != seal.size:
        raise StoreError(f"{path}: the store has {size} bytes instead of {seal.size}: cut or altered; {REMEDY}")
    return seal


def is_store(path: Path) -> bool:
    """Whether a file was written as a store, of whatever version, and half-written ones too; no link is followed."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(SEAL_BYTES)
    return head.startswith(_MAGIC) or _is_half_written(path, head)


def _is_half_written(path: Path, head: bytes) -> bool:
    """Whether a file is one of HDF5 with the room for a seal, and none in it."""
    if len(head) < SEAL_BYTES or any(head):
        return False
    with path.open("rb") as file:
        file.seek(SEAL_BYTES)
        return file.read(len(_HDF5)) == _HDF5


def file_digest(path: Path, progress: Progress | None = None) -> str:
    """Digest of all bytes after the seal: sha256 of the sha256 of each 64 MiB, which several threads make.

    Args:
        path: of the store.
        progress: called with segments done, segments in all, name of the file.
    """
    starts = range(SEAL_BYTES, max(path.stat().st_size, SEAL_BYTES + 1), _SEGMENT)

    def segment(start: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(_SEGMENT)).digest()

    whole = hashlib.sha256()
    with ThreadPoolExecutor(_HASHERS, thread_name_prefix="digest") as pool:
        for done, digest in enumerate(pool.map(segment, starts), start=1):
            whole.update(digest)
            if progress is not None:
                progress(done, len(starts), path.name)
    return whole.hexdigest()
