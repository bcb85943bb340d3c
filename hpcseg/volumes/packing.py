"""Making a chunk store from scans: cases in parallel, restartable, all or nothing.

Every finished case is a store of its own, in a folder beside the destination, until all of them are joined. Packing
that was stopped or killed goes on with the cases that are missing; the result is the same to the last byte, whatever
happened on the way, and however many processes worked on it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import re
import signal
import threading
import warnings
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

from hpcseg.errors import NO_LOCKS, BadInput, HpcsegError, Interrupted, LeftOut, StoreError, lack_of_space
from hpcseg.files import replacing, sync_file, sync_folder
from hpcseg.owners import private_folder
from hpcseg.spec import CaseRef, PackSpec
from hpcseg.text import counted, listed
from hpcseg.volumes.chunks import require_codec
from hpcseg.volumes.datasets import Progress
from hpcseg.volumes.packed_case import pack_case
from hpcseg.volumes.preprocess import merge_labels
from hpcseg.volumes.scan_grid import require_same_grid
from hpcseg.volumes.scans import read_grid
from hpcseg.volumes.seal import VERSION
from hpcseg.volumes.store import Store
from hpcseg.volumes.writing import StoreWriter

REQUESTS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
_ROOM = 64 * 1024  # bytes
_POLL_S = 0.5
_LOCK = "lock"
_JOINED = "joined"
_PART_NAME = re.compile("[0-9a-f]{20}")
_OWN_NAME = re.compile(rf"{_PART_NAME.pattern}|\.{_PART_NAME.pattern}\.\w+|{_JOINED}|\.{_JOINED}\.\w+")

ShouldStop = Callable[[], bool]


def pack(
    spec: PackSpec,
    destination: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
) -> None:
    """Pack all cases of `spec` into the store `destination`; it appears when it is complete, or not at all.

    The result depends neither on `workers` nor on the number of cores. If packing ends early, the finished cases stay
    in `parts_folder(destination)`; packing again goes on with the others.

    Args:
        spec: cases, spacing, classes, padding, clip of the pyramid, codec.
        destination: the file to be made or replaced.
        workers: processes; each needs memory for one case.
        progress: called after every case with cases done, cases in all, name.
        should_stop: asked between cases; when true, packing is given up.

    Raises:
        BadInput: a scan is missing or bad, a label has no foreground.
        Interrupted: `should_stop` said so.
        HpcsegError: another process packs to the same destination, or a worker died.
        OSError: among others, the disk is full; its `filename` says whose folder.
    """
    require_codec(spec.codec)
    check_cases(spec)
    try:
        with _own_folder(destination) as folder:
            parts = [_Part.of(spec, case, folder) for case in spec.cases]
            _clear(folder, keep={part.path.name for part in parts})
            joined = folder / _JOINED
            finished = _finished(parts, workers, should_stop or (lambda: False))
            with contextlib.closing(StoreWriter(joined, spec)) as writer, contextlib.closing(finished):
                for done, part in enumerate(finished, start=1):
                    writer.add_all(part.path)
                    if progress is not None:
                        progress(done, len(parts), part.case.name)
                writer.finish()
            sync_file(joined)
            joined.replace(destination)
            sync_folder(destination.parent)
            _clear(folder, keep=())
    except (OSError, RuntimeError) as error:
        full = lack_of_space(error)
        if full is None or full.filename:
            raise
        raise OSError(full.errno, full.strerror, str(destination)) from error


def parts_folder(destination: Path) -> Path:
    """Where the finished cases of a store wait for the others."""
    return destination.parent / f".{destination.stem}.parts"


def own_parts_folder(destination: Path) -> Path:
    """Make `parts_folder`, for this user alone.

    Raises:
        BadInput: it is there, and a link or another user's; nothing in it is touched.
    """
    folder = parts_folder(destination)
    private_folder(folder)
    return folder


def check_cases(spec: PackSpec) -> None:
    """Find what is wrong with the cases as far as their headers show, before the long work.

    Raises:
        BadInput: no case, a name used twice, a file missing or with a bad header, a label on another grid.
    """
    if not spec.cases:
        raise BadInput(f"{spec.dataset}: no case to pack; give a dataset with volumes")
    merge_labels(np.zeros((1, 1, 1), dtype=np.uint8), spec.classes, spec.ignore)
    names = set()
    for case in spec.cases:
        if case.name in names:
            raise BadInput(f"{case.image}: a second case is named {case.name!r}; rename one of them")
        names.add(case.name)
        grid = read_grid(case.image)
        if case.label is not None:
            require_same_grid(case.label, read_grid(case.label), grid)


@dataclass(frozen=True)
class _Part:
    """One case on its way into the store: a store of this case alone at `path`, named after all that it depends on."""

    spec: PackSpec  # of this case alone
    path: Path

    @classmethod
    def of(cls, spec: PackSpec, case: CaseRef, folder: Path) -> _Part:
        own = spec.model_copy(update={"cases": (case,)})
        files = [path.stat() for path in (case.image, case.label) if path is not None]
        key = [own.model_dump_json(), VERSION, [(stat.st_size, stat.st_mtime_ns) for stat in files]]
        return cls(own, folder / hashlib.sha256(repr(key).encode()).hexdigest()[:20])

    @property
    def case(self) -> CaseRef:
        return self.spec.cases[0]

    def is_made(self) -> bool:
        """Whether the case was finished before; what is no good store is made anew."""
        try:
            Store(self.path).close()
        except StoreError:
            return False
        return True

    def make(self) -> tuple[int, ...]:
        """Pack the case; returns the values of its label that are of no class."""
        packed = pack_case(self.spec, self.case)
        with replacing(self.path) as temporary, contextlib.closing(StoreWriter(temporary, self.spec)) as writer:
            writer.add(packed)
            writer.finish()
        return packed.unused


def _finished(parts: Sequence[_Part], workers: int, should_stop: ShouldStop) -> Generator[_Part]:
    """The parts in their order, each once it is made, at most `workers` at a time.

    A warning, `LeftOut`, at the end names label values that became background.
    """

    def go_on() -> None:
        if should_stop():
            name = parts[0].spec.dataset
            raise Interrupted(f"{name}: packing stopped; finished cases are kept, and packing again goes on")

    missing = [part for part in parts if not part.is_made()]
    background: dict[int, list[str]] = {}  # label value -> cases
    with _processes(min(workers, len(missing)), parts[0].path.parent) as pool:
        with _signals_held():  # which fresh processes inherit, until they ignore them
            making = {part.path: pool.submit(part.make) for part in missing} if pool else {}
        for part in parts:
            unused: tuple[int, ...] = ()
            go_on()
            if part.path in making:
                while not wait([making[part.path]], timeout=_POLL_S).done:
                    go_on()
                    _raise_failure(making.values())
                unused = making.pop(part.path).result()
            elif not pool and part in missing:
                unused = part.make()
            for value in unused:
                background.setdefault(value, []).append(part.case.name)
            yield part
    for value, names in sorted(background.items()):
        what = f"label value {value} of {counted(len(names), 'case')} ({listed(names)})"
        warnings.warn(f"{what} is in no class of data.foreground, and became background", LeftOut, stacklevel=2)


def _raise_failure(futures: Iterable[Future[tuple[int, ...]]]) -> None:
    """Raise the error of a case that failed before its turn, rather than an hour later."""
    for future in futures:
        if future.done():
            future.result()


@contextlib.contextmanager
def _processes(workers: int, folder: Path) -> Iterator[ProcessPoolExecutor | None]:
    """Fresh worker processes that write to `folder`, or None where one is enough; on the way out, cases that have not
    begun are dropped."""
    if workers <= 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with _signals_held():  # begins the process that tracks what the others share
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    except BrokenProcessPool:
        if _is_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "part")) from None
        raise HpcsegError(
            "packing: a worker process died, likely out of memory; give the job fewer workers or more memory "
            "(finished cases are kept)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _is_full(folder: Path) -> bool:
    """Whether the folder's disk has no room for a chunk, or for one more file (where it counts them)."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize < _ROOM or (there.f_files > 0 and there.f_favail == 0)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back the requests to stop that a scheduler sends to every process of a job; they arrive afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a worker: end when the packing process is gone, however it went, and not for what is meant for that one."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@contextlib.contextmanager
def _own_folder(destination: Path) -> Iterator[Path]:
    """The folder of finished cases, for this process alone; it goes away with the last of them."""
    folder = own_parts_folder(destination)
    try:
        lock = filelock.FileLock(folder / _LOCK, fallback_to_soft=False).acquire(timeout=0)
    except filelock.Timeout:
        raise HpcsegError(f"{destination}: another process is packing to it; wait for it or stop it") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise BadInput(f"{destination}: its file system has no locks (flock); pack to another one") from None
    with lock:
        try:
            yield folder
        finally:
            left = {path.name for path in folder.iterdir() if _PART_NAME.fullmatch(path.name)}
            _clear(folder, keep=left)
            if not left:
                (folder / _LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # somebody else put something there
                    folder.rmdir()


def _clear(folder: Path, keep: Container[str]) -> None:
    """Remove what is of no use any more: half-made files, and cases of which something has changed.

    Only what packing names so is removed; of a link that is the link.
    """
    for path in folder.iterdir():
        if path.name not in keep and _OWN_NAME.fullmatch(path.name) and (path.is_file() or path.is_symlink()):
            path.unlink()
