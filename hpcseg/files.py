"""Writing files so that a reader sees the whole old one or the whole new one, and never a half."""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput, LeftOut
from hpcseg.owners import regular

SYNCS_AT_ONCE = 8


@contextlib.contextmanager
def replacing(path: Path, *, former: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder, where nothing is; on success sync it to disk and rename it to `path`.

    On any exception the temporary file is removed and `path` is as it was. Whoever makes the file says that nothing may
    be there, as far as the library in between can: then no link is followed that somebody lays there in time.

    Makes no folder (`make_folder`): a job under which the folder of all runs was renamed would make a second one.

    Args:
        path: the file.
        former: where the file goes that is at `path` until then; None: it goes away.
    """
    with _beside(path) as temporary:
        yield temporary
        sync_file(temporary)
        if former is not None and path.exists():
            path.replace(former)
        temporary.replace(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary path for what is to replace `path`; whatever is there on the way out is removed.

    Nobody can foretell it, and whoever makes it says that nothing may be there (O_EXCL), which follows no link.
    """
    suffix = "".join(path.suffixes[-2:])  # nibabel chooses its format by the ending
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}{suffix}")
    try:
        yield temporary
    except OSError as error:  # is of the file that is known
        if str(error.filename) == str(temporary):
            error.filename = str(path)
        error.args = tuple(
            one.replace(str(temporary), str(path)) if isinstance(one, str) else one for one in error.args
        )  # HDF5 says it in its text
        raise
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def remove_leftovers(folder: Path, of: Collection[str]) -> None:
    """Remove what killed processes left of files that they were replacing.

    Only regular files of this user go: links, folders and what belongs to others stay.

    Args:
        folder: with the files.
        of: names of files that nobody is writing now.
    """
    left = re.compile(rf"\.({'|'.join(map(re.escape, of))})\.\w+(\.\w+){{0,2}}")
    with os.scandir(folder) as entries:
        for entry in entries:
            if not left.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                Path(entry).unlink(missing_ok=True)


def write_text(path: Path, text: str | Iterator[str]) -> None:
    """Replace `path` by `text` (UTF-8), or by its parts one after another, atomically."""
    with replacing(path) as temporary:
        _write_new(temporary, text)


def replace_in_time(path: Path, text: str) -> None:
    """Replace `path` by `text`, atomically; the file's time stays."""
    known = path.stat()
    with replacing(path) as temporary:
        _write_new(temporary, text)
        os.utime(temporary, ns=(known.st_atime_ns, known.st_mtime_ns))


def write_unsynced(path: Path, text: str) -> None:
    """Replace `path` by `text` without waiting for the disk: after a power cut it may be empty."""
    with _beside(path) as temporary:
        _write_new(temporary, text)
        temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON, as in all files."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def compact_json(value: Any) -> str:
    """JSON on one line without an end: indenting ten thousand runs takes seconds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_all(texts: Sequence[tuple[Path, str | Iterator[str]]]) -> None:
    """Replace many files as `write_text` does each, one after another in this order; waits for the disk only twice.

    First every text is written beside its file and synced, then they are renamed, then their folders are synced: when
    it returns all of it is on the disk, and whoever looks before that sees whole files, of the first ones earlier.
    Folders that are not there are made.
    On any exception before the renaming all files are as they were.
    """
    folders = sorted({path.parent for path, _ in texts})
    changed = set(folders) | {folder.parent for folder in folders if not folder.exists()}
    with contextlib.ExitStack() as stack:
        temporaries = [stack.enter_context(_beside(path)) for path, _ in texts]
        with ThreadPoolExecutor(SYNCS_AT_ONCE) as pool:
            _in_shares(pool, make_folder, [(folder,) for folder in folders])
            _in_shares(pool, _write_synced, [(new, text) for new, (_, text) in zip(temporaries, texts, strict=True)])
            for temporary, (path, _) in zip(temporaries, texts, strict=True):
                temporary.replace(path)
            _in_shares(pool, sync_folder, [(folder,) for folder in changed])


def _in_shares(pool: ThreadPoolExecutor, work: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Do every task, a share of them in each thread: a future of its own takes as long as a small file."""

    def do(share: Sequence[tuple[Any, ...]]) -> None:
        for task in share:
            work(*task)

    list(pool.map(do, [tasks[first::SYNCS_AT_ONCE] for first in range(SYNCS_AT_ONCE)]))


def read_json(path: Path | str, *, optional: bool = False) -> Any:
    """Parse a JSON file; ten thousand small ones in a fraction of a second, where `path` is a string.

    Args:
        path: the file.
        optional: whether None is returned where there is none.

    Raises:
        BadInput: the file is missing, unreadable or not JSON.
    """
    content = read_bytes(path) if not optional else read_if_there(path)
    return None if content is None else parse_json(path, content)


def is_file(path: Path) -> bool:
    """Whether a regular file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # a name of a thousand characters
        return False


class FileNotFound(BadInput):
    """There is no such file."""


def read_bytes(path: Path | str) -> bytes:
    """All of a file.

    Raises:
        FileNotFound: there is none.
        BadInput: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0, opener=regular) as file:
            return file.read()
    except FileNotFoundError:
        raise FileNotFound(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null in the path
        raise BadInput(f"{path}: cannot be read ({error})") from None


def read_if_there(path: Path | str) -> bytes | None:
    """All of a file; None where there is none.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return read_bytes(path)
    except FileNotFound:
        return None


def parse_json(path: Path | str, content: bytes) -> Any:
    """The value of a JSON file that was read; Windows' mark before UTF-8 is passed over.

    Raises:
        BadInput: it is not JSON; the message names `path`.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: not valid JSON (line {error.lineno}: {error.msg})") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise BadInput(f"{path}: not valid JSON ({str(error).split(';')[0]})") from None


def leave_out(what: str) -> None:
    """Warn that something cannot be used, and that the work goes on without it."""
    warnings.warn(f"{' '.join(what.split())}; it is left out", LeftOut, stacklevel=2)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, text: str | Iterator[str], *, synced: bool = False) -> None:
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:  # names of files may be anything
        file.writelines([text] if isinstance(text, str) else text)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def _write_synced(path: Path, text: str | Iterator[str]) -> None:
    _write_new(path, text, synced=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
