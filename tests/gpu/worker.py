"""Measure parts one after the other in this process: `python -m tests.gpu.worker FOLDER DEVICE END PART ...`.

What each finds is written to FOLDER/found when it is over; what it found so far, on the way, in case it is ended. After
a part that failed as a whole the process ends, as a kernel that failed may leave the device unusable; whoever started
it starts another one for the rest: exit status 3.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from torch import nn

from hpcseg.files import read_json, write_json
from hpcseg.training.precision import place
from tests.gpu.device import machine_for
from tests.gpu.kit import DeviceIsLost, Found, Kit, plain
from tests.gpu.parts import Part, named
from tests.gpu.sizes import PAPER, TINY

MORE = 3  # exit status: parts are left


def main(folder: Path, kind: str, end: float, names: list[str]) -> int:
    """Measure parts until one fails; `end` is when all has to be over, in Unix seconds."""
    sizes = PAPER if kind == "cuda" else TINY
    machine = machine_for(kind, sizes.patience_s)
    place(nn.Identity(), machine.device)  # float32 is float32 from here on, as in training
    for rank, name in enumerate(names):
        part = named(name)
        seconds = min(part.budget_s, end - time.time())
        kit = Kit(machine, sizes, folder, time.monotonic() + seconds, earlier_figures(folder))
        kit.keep = partial(_write_half, half_file(folder, part))
        _measure(part, kit)
        write_json(found_file(folder, part), kit.found.as_json())
        gc.collect()
        if kit.found.state == "failed" and rank + 1 < len(names):
            return MORE
    return 0


def _measure(part: Part, kit: Kit) -> None:
    """Measure one part; whatever happens stands in what it found."""
    print(f"{part.title} ...", flush=True)
    began = time.monotonic()
    try:
        part.measure()(kit)
    except DeviceIsLost as lost:
        kit.found.state = "failed"
        kit.found.failed.append(plain(f"the device was lost: {lost}"))
    except Exception as error:
        kit.found.state = "failed"
        kit.found.failed.append(plain(f"{type(error).__name__}: {error}"))
        traceback.print_exc()
    kit.found.seconds = round(time.monotonic() - began, 1)
    print(f"  [{kit.found.seconds} s]", flush=True)


def found_file(folder: Path, part: Part) -> Path:
    """Where what a part found is written."""
    place = folder / "found"
    place.mkdir(exist_ok=True)
    return place / f"{part.name}.json"


def half_file(folder: Path, part: Part) -> Path:
    """Where what a part found so far is written while it is at work."""
    return found_file(folder, part).with_suffix(".part")


def _write_half(place: Path, found: Found) -> None:
    write_json(place, found.as_json())


def earlier_figures(folder: Path) -> dict[str, float]:
    """The figures of all parts that are over."""
    figures: dict[str, float] = {}
    for path in sorted((folder / "found").glob("[!.]*.json")):
        figures |= Found.of_json(read_json(path)).figures
    return figures


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
