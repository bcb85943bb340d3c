"""The process in which parts of `make gpu` are measured in turn: `python -m tests.gpu.running PLACE PART...`

Not pytest's: a machine that is lent has torch and Triton, and may have little else.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import nn

from hpcseg.training.precision import place
from tests.gpu.device import Machine, machine_for
from tests.gpu.kit import DeviceIsLost, Found, Kit
from tests.gpu.parts import ALL, GRACE_S, Part, Watchdog
from tests.gpu.report import beside, keep, read_results
from tests.gpu.sizes import PAPER, TINY

LOST = 70  # how this process ends where a part broke the device's context


@dataclass(frozen=True)
class Place:
    """Where parts are measured.

    Attributes:
        kind: "cuda" or "cpu".
        end: when all has to be over, in Unix seconds.
        folder: of all runs.
        docs: of the page.
    """

    kind: str
    end: float
    folder: str
    docs: str

    def machine(self) -> Machine:
        """To measure on; float32 is float32 in this process from here on, as in training."""
        machine = machine_for(self.kind, (PAPER if self.kind == "cuda" else TINY).patience_s)
        place(nn.Identity(), machine.device)
        return machine

    def measure(self, part: Part, machine: Machine) -> Found:
        """Measure one part; what it finds is on the page at once.

        Raises:
            DeviceIsLost: the device cannot be used any more.
        """
        docs, until = Path(self.docs), time.monotonic() + min(part.budget_s, self.end - time.time())
        kit = Kit(
            machine,
            PAPER if self.kind == "cuda" else TINY,
            Path(self.folder),
            until,
            read_results(docs).figures,
            keep=partial(keep, docs, part),
            kept=beside(docs),
        )
        kit.measure(part)
        gc.collect()
        return kit.found


def main(words: list[str]) -> int:
    """Measure the parts that are named, as long as there is time."""
    where, names = Place(**json.loads(words[0])), words[1:]
    watchdog, machine = Watchdog(), where.machine()
    for part in (part for part in ALL if part.name in names):
        left = where.end - time.time()
        if left < GRACE_S:
            break
        watchdog.until = time.time() + min(part.budget_s, left) + GRACE_S
        print(f"\n{part.title}: {part.name}", flush=True)
        try:
            where.measure(part, machine)
            machine.synchronize()
        except (DeviceIsLost, RuntimeError) as error:
            print(f"the device is lost: {error}", flush=True)
            return LOST
    return 0


def command(where: Place, parts: list[Part]) -> list[str]:
    """The command that measures parts in a process of its own."""
    return [sys.executable, "-m", "tests.gpu.running", json.dumps(asdict(where)), *(part.name for part in parts)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
