"""Whether a training run's `result.json` may be used: one judgement, for status, sweep, collect and the job itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.files import parse_json, read_bytes, read_if_there
from hpcseg.paths import RESULT_FILE, RUN_FILE
from hpcseg.seals import seal_holds
from hpcseg.spec import read_spec, spec_digest

# Id and digest of a sealed result stand on its first lines: the scores are not looked at.
_HEAD = re.compile(rb'{\n "id": "([\w.+-]+)",\n "digest": "([0-9a-f]*)",\n')


def why_unusable(run: Path, name: str) -> str:
    """Why the result in the directory of the run `name` cannot be used, in a line; "" where it can.

    It is cut, was changed after it was written, or is of another run; or `run.json` was changed after it was written.
    Files of earlier versions have no seal; of them it is known only that they are whole.
    """
    try:
        read_usable(run, name)
    except BadInput as error:
        return str(error)
    return ""


def read_usable(run: Path, name: str) -> tuple[bytes, bytes | None]:
    """What `result.json` of the run `name` and `run.json`, if it is there, hold.

    Raises:
        BadInput: the result cannot be used, as `why_unusable` says.
    """
    path = f"{run}/{RESULT_FILE}"
    content = read_bytes(path)
    return content, _plan_of(run, _digest_in(path, name, content))


def _digest_in(path: str, name: str, content: bytes) -> str:
    """The digest of `run.json` in a result that may be used; "" where it has none.

    Raises:
        BadInput: it may not.
    """
    seal = seal_holds(content)
    head = _HEAD.match(content) if seal else None
    value = {"id": head[1].decode(), "digest": head[2].decode()} if head else parse_json(path, content)
    if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
        raise BadInput(f"{path}: not a result")
    if seal is False or (seal is None and "digest" in value):
        raise BadInput(f"{path}: was changed after it was written, its seal does not match")
    if value["id"] != name:
        raise BadInput(f"{path}: is the result of run {value['id']}, not of {name}")
    if seal is None and not isinstance(value.get("sets"), Mapping):
        raise BadInput(f"{path}: not a result (sets: an object is missing)")
    return str(value.get("digest", ""))


def _plan_of(run: Path, digest: str) -> bytes | None:
    """What `run.json` holds; BadInput where it is not what a result was made from, as far as that can be known."""
    path = f"{run}/{RUN_FILE}"
    content = read_if_there(path)
    if content is None:
        return None
    seal = seal_holds(content)
    if seal is False or (seal is None and digest and spec_digest(read_spec(run)) != digest):
        raise BadInput(f"{path}: was changed after the run was planned")
    return content
