"""JSON that knows whether it was changed: records with a seal, and files of lines that have one each.

A seal is a SHA-256 of all that stands before it; of records and attempts also of the name of the folder, so that none
of another run is taken for this one's. It finds damage, mix-ups and edits by hand, and is no signature
(docs/security.md). Files of earlier versions have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.files import json_text, leave_out, parse_json, read_bytes, read_if_there, write_text
from hpcseg.owners import no_link, regular

_SEAL = re.compile(rb',\n "seal": "([0-9a-f]{64})"\n}\n\Z')
_SEAL_BYTES = 80  # what is before them is not looked through
_REMEDY = "remove the file and apply the sweep again"
_LINE_SEAL = re.compile(rb', "seal": "([0-9a-f]{16})"}\Z')
# By its name, or what is left of one: a digest at the end. Only models and stores had one there in earlier versions.
_ANY_SEAL = re.compile(rb'"seal"\s*:|(?<!\.pt)(?<!\.h5)"\s*:\s*"[^"\n]*[0-9a-f]{16}"\s*}\s*\Z')


def with_seal(text: str, of: str = "") -> str:
    """A JSON object's text with one more key, `seal`: the SHA-256 of all that stands before it.

    >>> seal_holds(with_seal('{\\n "dsc": 0.91\\n}\\n').encode())
    True

    Args:
        text: of an object with a key at least.
        of: what it belongs to, by name: no other one's seal holds.
    """
    body = text.rstrip().removesuffix("}").rstrip()
    return f'{body},\n "seal": "{_digest(body.encode(errors="backslashreplace"), of)}"\n}}\n'


def seal_holds(content: bytes, of: str = "") -> bool | None:
    """Whether a file is as `with_seal` made it; None where it has no seal, as those of earlier versions.

    >>> seal_holds(with_seal('{"dsc": 0.91}').replace("0.91", "0.97").encode()), seal_holds(b'{"dsc": 0.97}')
    (False, None)
    """
    found = _SEAL.search(content, max(0, len(content) - _SEAL_BYTES))
    if found is None:
        return False if _ANY_SEAL.search(content) else None
    return _digest(memoryview(content)[: found.start()], of) == found[1].decode()


def _digest(body: bytes | memoryview, of: str) -> str:
    digest = hashlib.sha256(f"{of}\n".encode(errors="backslashreplace") if of else b"")
    digest.update(body)
    return digest.hexdigest()


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by an object as indented JSON with a seal, atomically."""
    write_text(path, sealed_text(path, json_text(value)))


def sealed_text(path: Path, text: str) -> str:
    """An object's text as a record at `path` has it: with its seal, if it has anything that could be changed."""
    return with_seal(text, path.parent.name) if text.rstrip() != "{}" else text


def read_sealed(path: Path | str, *, optional: bool = False) -> Any:
    """The object of a record, without its seal.

    Args:
        path: the file.
        optional: whether None is returned where there is none.

    Raises:
        BadInput: the file is missing, unreadable, no object in JSON, was changed after it was written, or is of another
            folder.
    """
    content = read_bytes(path) if not optional else read_if_there(path)
    if content is None:
        return None
    try:
        value = parse_json(path, content)
    except BadInput as error:
        raise BadInput(f"{error}; {_REMEDY}") from None
    if seal_holds(content, os.path.basename(os.path.dirname(os.path.abspath(path)))) is False:  # noqa: PTH100, PTH119, PTH120
        why = "was changed after it was written, or is of another folder: its seal does not match"
        raise BadInput(f"{path}: {why}; {_REMEDY}")
    if not isinstance(value, dict) or not value:
        raise BadInput(f"{path}: not what hpcseg writes there (an object is missing); {_REMEDY}")
    value.pop("seal", None)
    return value


def append_line(path: Path, value: Mapping[str, Any], of: str = "", *, synced: bool = True) -> None:
    """Append an object as a line that `json_lines` reads; one that a crash tore is ended first.

    Args:
        path: of the file.
        value: the object.
        of: what the line belongs to, by name: for no other one is it read. "": equal lines are equal in all files.
        synced: whether it is on the disk when this returns.

    Raises:
        OSError: also where `path` is a link.
    """
    line = line_of(value, of)
    with open(path, "ab+", opener=no_link) as file:
        end = file.seek(0, os.SEEK_END)
        torn = False
        if end:
            file.seek(end - 1)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + line)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def line_of(value: Mapping[str, Any], of: str = "") -> bytes:
    """An object as a line, with its seal and its end."""
    body = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")[:-1]
    return body + b', "seal": "%s"}\n' % _digest(body, of)[:16].encode()


def json_lines(path: Path, of: str = "") -> list[dict[str, Any]]:
    """Objects of a file that has one in each line, without their seals; [] without the file.

    A line that is none, or was changed after it was written, is left out with a warning, `LeftOut`; without one a last
    line that has no end, as it is being written. Earlier versions wrote no seals: such lines come first.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    found, sealed = [], False
    for number, line in enumerate(lines, start=1):
        value, seal = _object(line), _LINE_SEAL.search(line)
        if value is None:
            if line.strip() and number < len(lines):
                leave_out(f"{path}: line {number} cannot be read")
            continue
        if seal is None:
            changed = sealed or _ANY_SEAL.search(line) is not None
        else:
            sealed, changed = True, _digest(line[: seal.start()], of)[:16] != seal[1].decode()
        if changed:
            leave_out(f"{path}: line {number} was changed after it was written, or is of another run")
        else:
            value.pop("seal", None)
            found.append(value)
    return found


def _object(line: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(line.decode())
        return value if isinstance(value, dict) else None
    return None
