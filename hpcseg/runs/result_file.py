"""Whether a training run's `result.json` may be used: one judgement, for status, sweep, collect and the job itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import parse_json, read_bytes, read_if_there
from hpcseg.paths import RESULT_FILE, RUN_FILE
from hpcseg.seals import seal_holds
from hpcseg.spec import read_spec, spec_digest


def why_unusable(run: Path, name: str) -> str:
    """Why the result in the directory of the run `name` cannot be used, in a line; "" where it can.

    It is cut, was changed after it was written, or is of another run; or `run.json` was changed after it was written.
    Files of earlier versions have no seal; of them it is known only that they are whole.
    """
    try:
        digest = _digest_in(f"{run}/{RESULT_FILE}", name)
        _require_plan(run, digest)
    except BadInput as error:
        return str(error)
    return ""


def _digest_in(path: str, name: str) -> str:
    """The digest of `run.json` in a result that may be used; "" where it has none.

    Raises:
        BadInput: it may not.
    """
    content = read_bytes(path)
    seal = seal_holds(content)
    value = (_head(content) if seal else None) or parse_json(path, content)
    if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
        raise BadInput(f"{path}: not a result")
    if seal is False or (seal is None and "digest" in value):
        raise BadInput(f"{path}: was changed after it was written, its seal does not match")
    if value["id"] != name:
        raise BadInput(f"{path}: is the result of run {value['id']}, not of {name}")
    if seal is None and not isinstance(value.get("sets"), Mapping):
        raise BadInput(f"{path}: not a result (sets: an object is missing)")
    return str(value.get("digest", ""))


def _head(content: bytes) -> dict[str, Any] | None:
    """Id and digest of a sealed result, which stand on its first lines; the scores are not looked at."""
    lines = [line.strip().rstrip(b",") for line in content[:400].split(b"\n")[1:3]]
    try:
        found = parse_json("", b"{" + b",".join(lines) + b"}")
    except BadInput:
        return None
    return found if isinstance(found, dict) and found.keys() == {"id", "digest"} else None


def _require_plan(run: Path, digest: str) -> None:
    """Raise BadInput where `run.json` is not the one that a result was made from, as far as that can be known."""
    path = f"{run}/{RUN_FILE}"
    content = read_if_there(path)
    if content is None:
        return
    seal = seal_holds(content)
    if seal is False or (seal is None and digest and spec_digest(read_spec(run)) != digest):
        raise BadInput(f"{path}: was changed after the run was planned")
