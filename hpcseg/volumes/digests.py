"""Digests of scans' files: of all of their content, for the price of one small read where that is enough.

A gzip file ends with the checksum and the length of what it holds, so that its size, first and last bytes stand for all
of it; where that length is not the whole scan's (a file of several gzip members), and of a file that is not compressed,
every byte is hashed. Such a digest is remembered with the file's size, times, device and inode: it is made anew
whenever one of them changes, as they do on a move, a copy, or `touch`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import make_folder, read_json, write_json
from hpcseg.spec import CaseRef

_EDGE_BYTES = 512
_HEADER_BYTES = 540  # of NIfTI-2
_GZIP = b"\x1f\x8b\x08"
_BLOCK = 1 << 20
_SETTLED_NS = 2_000_000_000  # file systems whose clock is coarse show two writings of one moment as one


class Digests:
    """Digests of files, those that took long kept in a folder of the user; several processes may use it at once.

    Args:
        folder: where they are kept; None: they are not.
        anew: whether every byte is read, whatever is known: of gzip files it is compared with their checksum.
    """

    def __init__(self, folder: Path | None = None, *, anew: bool = False) -> None:
        self._folder, self._anew = folder, anew
        self._known: dict[Path, dict[str, list[Any]]] = {}
        self._changed: dict[Path, dict[str, list[Any]]] = {}
        self._lock = threading.Lock()

    def of(self, path: Path) -> tuple[str, str]:
        """Digest of a scan's content, and what versions before 0.2 took for it: of size, first and last 512 bytes.

        Raises:
            BadInput: the file is missing or cannot be read; with `anew`, a gzip file is damaged.
        """
        try:
            size, head, tail = _edges(path)
            of_ends = hashlib.sha256(b"%d|" % size + head + tail).hexdigest()
            if not _ends_suffice(path, size, head, tail):
                return self._of_all(path), of_ends
            if self._anew and head.startswith(_GZIP):
                _check_gzip(path)
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror}); correct the path or dataset.json") from None
        return of_ends, of_ends

    def of_case(self, case: CaseRef) -> tuple[str, str]:
        """Both of a case's image and label."""
        files = [self.of(path) for path in (case.image, case.label) if path is not None]
        return "+".join(digest for digest, _ in files), "+".join(older for _, older in files)

    def save(self) -> None:
        """Keep what was found; a folder that cannot be written to costs the time of the next plan, nothing else."""
        with self._lock:
            changed, self._changed = self._changed, {}
        for folder, entries in changed.items():
            with contextlib.suppress(OSError):
                make_folder(self._file(folder).parent)
                write_json(self._file(folder), self._read(folder) | entries)

    def _of_all(self, path: Path) -> str:
        place = path.resolve()
        with place.open("rb") as file:
            before = _identity(os.fstat(file.fileno()))
            known = None if self._anew else self._entries(place.parent).get(place.name)
            if known is not None and known[:-1] == before:
                return str(known[-1])
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            now, after = time.time_ns(), _identity(os.fstat(file.fileno()))
        if self._folder is not None and before == after and now - max(before[1:3]) > _SETTLED_NS:
            with self._lock:
                self._changed.setdefault(place.parent, {})[place.name] = [*before, digest]
        return digest

    def _entries(self, folder: Path) -> dict[str, list[Any]]:
        with self._lock:
            if folder not in self._known:
                self._known[folder] = self._read(folder)
            return self._known[folder]

    def _read(self, folder: Path) -> dict[str, list[Any]]:
        """What is kept of the files of a folder; entries that are none are left out."""
        if self._folder is None:
            return {}
        try:
            found = read_json(self._file(folder), optional=True)
        except BadInput:
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 6}

    def _file(self, folder: Path) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:20]}.json"


def mark_of(digest: str) -> str:
    """What a run keeps of a case's digest: enough to see that a file was changed."""
    return hashlib.sha256(digest.encode()).hexdigest()[:16]


def require_unchanged(cases: Iterable[CaseRef]) -> None:
    """Look whether the files of cases are what they were when a run was planned; those that are gone say nothing.

    Raises:
        BadInput: one was changed since.
    """
    digests = Digests(cache_folder())
    for case in cases:
        if not case.mark or not all(path.is_file() for path in (case.image, case.label) if path is not None):
            continue
        if mark_of(digests.of_case(case)[0]) != case.mark:
            both = f"{case.image}" + (f" or {case.label}" if case.label is not None else "")
            raise BadInput(f"{both} was changed after this run was planned; hpcseg sweep plans another one from it")
    digests.save()


def scan_digest(path: Path) -> str:
    """Digest of a scan's content, read now.

    Raises:
        BadInput: the file is missing or cannot be read.
    """
    return Digests().of(path)[0]


def cache_folder() -> Path | None:
    """Where digests are kept: below $XDG_CACHE_HOME, else ~/.cache; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(RuntimeError):
        return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "hpcseg" / "digests"
    return None


def _edges(path: Path) -> tuple[int, bytes, bytes]:
    """Size of a file, its first and its last 512 bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_EDGE_BYTES)
        file.seek(max(0, size - _EDGE_BYTES))
        return size, head, file.read(_EDGE_BYTES)


def _ends_suffice(path: Path, size: int, head: bytes, tail: bytes) -> bool:
    """Whether the checksum at a file's end is that of all that a scan holds; what should be gzip, but is not, is never
    read."""
    if size <= 2 * _EDGE_BYTES:
        return True
    if not path.name.endswith(".gz"):
        return False
    if not head.startswith(_GZIP):
        return True
    length = scan_bytes(_first_content(head))
    return length is not None and int.from_bytes(tail[-4:], "little") == length % (1 << 32)


def _first_content(head: bytes) -> bytes:
    """The first bytes of what a gzip file holds."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEADER_BYTES)
    except zlib.error:
        return b""


def scan_bytes(header: bytes) -> int | None:
    """Bytes of a whole NIfTI file by its header; None where that is none, or incomplete.

    Args:
        header: first 540 bytes of the file; 348 are enough of NIfTI-1.
    """
    for order in "<>":
        for size, layout in ((348, ("8h", 40, "h", 72, "f", 108)), (540, ("8q", 16, "h", 14, "q", 168))):
            if len(header) < size or struct.unpack_from(f"{order}i", header)[0] != size:
                continue
            shape_form, shape_at, bits_form, bits_at, offset_form, offset_at = layout
            rank, *shape = struct.unpack_from(f"{order}{shape_form}", header, shape_at)
            (bits,) = struct.unpack_from(f"{order}{bits_form}", header, bits_at)
            (offset,) = struct.unpack_from(f"{order}{offset_form}", header, offset_at)
            return _whole(rank, shape, bits, offset)
    return None


def _whole(rank: int, shape: Sequence[int], bits: int, offset: float) -> int | None:
    if not 0 < rank <= 7 or min(shape[:rank]) < 1 or bits < 8 or not 0 <= offset < 1 << 62:
        return None
    voxels = 1
    for size in shape[:rank]:
        voxels *= size
    return int(offset) + voxels * (bits // 8)


def _check_gzip(path: Path) -> None:
    """Read a gzip file to its end, and compare what it holds with its checksums."""
    import gzip

    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path}: damaged ({error}); copy the file again") from None


def _identity(stat: os.stat_result) -> list[int]:
    """What changes with a file's content, its place or its copy: size, times in ns, inode, device."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
