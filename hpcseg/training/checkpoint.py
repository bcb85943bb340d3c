"""Tensors on disk that survive any crash: written whole, checksummed, loaded without executing code.

A file is one line of ASCII, `hpcseg-tensors 1 <sha256 of the rest>`, followed by what `torch.save` writes. A
checkpoint is kept in two generations, so that a damaged newest one falls back to the one before.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from hpcseg.errors import BadInput
from hpcseg.files import remove_leftovers, replacing
from hpcseg.paths import CHECKPOINT_FILE, PREVIOUS_FILE, RUN_FILE
from hpcseg.training.unpickling import load_plain

_MAGIC = b"hpcseg-tensors 1 "


def save_tensors(path: Path, state: dict[str, Any], *, former: Path | None = None) -> int:
    """Write nested dictionaries and lists of tensors, numbers and strings to `path`, atomically; returns the bytes.

    The file that was at `path` until then goes to `former`, where that is given.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    with replacing(path, former=former) as temporary, temporary.open("xb") as file:
        head = file.write(_MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n")
        return head + file.write(payload)


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, on the CPU.

    Raises:
        BadInput: the file is missing, cut, altered, of another kind, or holds objects that would run code.
    """
    expected, payload = _read(path, whole=True)
    if hashlib.sha256(payload).hexdigest() != expected:
        raise BadInput(f"{path}: damaged, its checksum does not match")
    try:
        state = load_plain(payload)
    except pickle.UnpicklingError:
        raise BadInput(f"{path}: holds more than tensors and plain values, and loading it could run code") from None
    except Exception as error:  # whatever a pickle that was made on purpose leads to
        raise BadInput(f"{path}: not what hpcseg writes ({' '.join(str(error).split())[:80]})") from None
    if not isinstance(state, dict):
        raise BadInput(f"{path}: not what hpcseg writes")
    return state


def digest_of(path: Path) -> str:
    """The digest in the head of what `save_tensors` wrote, with which `load_tensors` compares the rest.

    Raises:
        BadInput: there is no such file, or it is of another kind.
    """
    return _read(path, whole=False)[0]


def _read(path: Path, *, whole: bool) -> tuple[str, bytes]:
    """The digest in a file's head, and what follows it: of one and the same file, whatever is renamed meanwhile."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"{path}: not a file")
        with path.open("rb") as file:
            head = file.read(len(_MAGIC) + 64 + 1)
            if not head.startswith(_MAGIC):
                raise BadInput(f"{path}: not a file of hpcseg's tensors")
            return head[len(_MAGIC) : -1].decode("ascii", errors="replace"), file.read() if whole else b""
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def save_checkpoint(run: Path, state: dict[str, Any]) -> int:
    """Make `state` the newest checkpoint of the run directory and keep the newest one until now beside it.

    At any time there is a whole checkpoint, and two of them share nothing on the disk.

    Returns:
        Its bytes.
    """
    remove_leftovers(run, {CHECKPOINT_FILE})  # one process alone works on a run
    return save_tensors(run / CHECKPOINT_FILE, state, former=run / PREVIOUS_FILE)


def load_checkpoint(run: Path, digest: str = "") -> dict[str, Any] | None:
    """The newest sound checkpoint of the run directory, or None where there is none at all.

    One that is damaged, or was saved with another `digest` of `run.json` (`hpcseg.spec.spec_digest`), is passed over
    with a warning. Earlier versions saved none, and "" compares nothing.

    Raises:
        BadInput: checkpoints exist, and none of them is sound.
    """
    paths = [path for path in (run / CHECKPOINT_FILE, run / PREVIOUS_FILE) if path.exists()]
    for path in paths:
        try:
            state = load_tensors(path)
            if digest and state.get(RUN_FILE, digest) != digest:
                raise BadInput(f"{path}: is the checkpoint of another run, or its run.json was changed since")
            return state
        except BadInput as error:
            warnings.warn(f"{error}; trying the one before it", stacklevel=2)
    if paths:
        raise BadInput(f"{run}: no checkpoint can be read; delete {run} and run the sweep again to start this run anew")
    return None


def remove_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    for name in (CHECKPOINT_FILE, PREVIOUS_FILE):
        (run / name).unlink(missing_ok=True)
    remove_leftovers(run, {CHECKPOINT_FILE})
