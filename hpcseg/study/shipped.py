"""Sweep files and job profiles that come with hpcseg, each by its name: `demo` is sweeps/demo.toml.

They lie in `sweeps/` and `jobs/` of the repository, to which links in `hpcseg/shipped` lead; a wheel holds the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpcseg.errors import BadInput
from hpcseg.files import write_all
from hpcseg.sections import flatten
from hpcseg.study.tomlfile import read_toml
from hpcseg.text import nearest, word

FOLDER = Path(__file__).parents[1] / "shipped"
COST = "Cost"  # begins the paragraph of a header that says what a sweep takes

Kind = Literal["sweeps", "jobs"]


@dataclass(frozen=True)
class ShippedSweep:
    """What the head of a sweep file says of it; `cost` is one sentence, `header` all of the comment."""

    name: str
    title: str
    cost: str
    header: str


def names_of(kind: Kind) -> list[str]:
    """Names of all files of a kind, sorted."""
    return sorted(path.stem for path in (FOLDER / kind).glob("*.toml"))


def find_shipped(name: Path, kind: Kind) -> Path | None:
    """The file of that name that comes with hpcseg; None: there is none. A path is no name."""
    path = FOLDER / kind / f"{name}.toml"
    return path if name.name == str(name) and path.exists() else None


def find_sweep(given: Path) -> Path:
    """The sweep file that is meant: a file that exists, else one that comes with hpcseg.

    Raises:
        BadInput: there is neither; the message lists the names.
    """
    if given.exists() and not given.is_dir():
        return given
    if found := find_shipped(given, "sweeps"):
        return found
    names = names_of("sweeps")
    near = nearest(given.stem, names)
    near = near if "did you mean" in near else ""
    what = "a folder, and no sweep file" if given.is_dir() else "no such file"
    raise BadInput(f"{given}: {what}{near}; name a file, or one of hpcseg sweeps: {', '.join(names)}")


def shipped_sweeps() -> list[ShippedSweep]:
    """All sweeps that come with hpcseg, the demonstration first."""
    return sorted(map(describe, names_of("sweeps")), key=lambda sweep: (sweep.name != "demo", sweep.name))


def describe(name: str) -> ShippedSweep:
    """What a sweep that comes with hpcseg says of itself.

    Raises:
        BadInput: there is none of that name.
    """
    source = read_toml(find_sweep(Path(name)))
    header = parse_header(source.text)
    title = str(source.data.get("sweep", {}).get("title", ""))
    return ShippedSweep(source.path.stem, title, parse_cost(header), header)


def parse_header(text: str) -> str:
    """The comment at the top of a file, without its signs. Pure.

    >>> parse_header("# A study.\\n#\\n#   hpcseg sweep x\\n\\n[run]\\n")
    'A study.\\n\\n  hpcseg sweep x'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


def parse_cost(header: str) -> str:
    """First sentence of the header's paragraph on cost, from its first colon or comma on; "" without one. Pure.

    >>> parse_cost("A study.\\n\\nCost on two cores: 6 runs of\\nthree minutes. More on a laptop.")
    'on two cores: 6 runs of three minutes'
    """
    for paragraph in header.split("\n\n"):
        if paragraph.startswith(COST):
            sentence = " ".join(paragraph.split()).removeprefix(COST).partition(". ")[0]
            return sentence.strip(" :.")
    return ""


def copy_sweep(given: Path, to: Path) -> list[Path]:
    """Copy a sweep, and the file of splits beside it that it names; returns the files that are new.

    Raises:
        BadInput: there is no such sweep, its `data.splits` is no text, or one of the files exists already; nothing is
            written then.
    """
    source = read_toml(find_sweep(given))
    texts = [(to, source.text)]
    run = source.data.get("run", {})
    splits = flatten(run).get("data.splits", "") if isinstance(run, dict) else ""
    if not isinstance(splits, str):
        where = source.where("run", 0, "data.splits")
        raise BadInput(f"{where}: data.splits = {splits!r}: should be a text in quotes (hpcseg keys data.splits)")
    if splits and (beside := source.path.parent / splits).is_file():
        copied, text = to.parent / splits, beside.read_text(encoding="utf-8")
        if not copied.exists() or copied.read_text(encoding="utf-8") != text:
            texts.append((copied, text))
    for path, _ in texts:
        if path.exists() or path.is_symlink():
            raise BadInput(
                f"{path}: exists, and is not replaced; name another file: hpcseg sweep --copy {word(given)} FILE"
            )
    write_all(texts)
    return [path for path, _ in texts]
