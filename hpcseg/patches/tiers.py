"""Where a store's bytes are while training, and what decides it.

gpu       decoded on the device that trains, where patches are cut from them
ram       read once in the background, so that they stay in the system's cache, which all processes of a node share
streamed  read from the disk when a patch needs them

The first with enough free memory is taken. It changes no result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.filesize import decimal

from hpcseg.errors import BadInput
from hpcseg.threads import beside

Tier = Literal["gpu", "ram", "streamed"]
Extent = tuple[Path, int, int]  # a part of a file: path, first byte, bytes
SHARE = 0.6  # of the free memory that stores may fill; the rest is the network's and the system's
_BLOCK_BYTES = 8 << 20
_HOW = {"gpu": "resident on the GPU, from", "ram": "resident in memory, from", "streamed": "streamed from"}


@dataclass(frozen=True)
class FreeMemory:
    """Free memory, bytes; `gpu` is that of the device that trains, None without a GPU."""

    ram: int
    gpu: int | None = None


def choose_tier(ram_bytes: int, gpu_bytes: int, free: FreeMemory, wanted: Literal["auto"] | Tier = "auto") -> Tier:
    """Choose where the bytes of a run's cases are to be. Pure.

    Args:
        ram_bytes: that the cases take in their stores.
        gpu_bytes: that they take decoded.
        free: memory.
        wanted: a tier that is taken whether it fits or not; auto: by size.

    Raises:
        BadInput: the tier "gpu" is wanted where there is none.
    """
    if wanted == "gpu" and free.gpu is None:
        raise BadInput("tier = 'gpu': there is no GPU; set tier = 'auto'")
    if wanted != "auto":
        return wanted
    if free.gpu is not None and gpu_bytes <= SHARE * free.gpu:
        return "gpu"
    return "ram" if ram_bytes <= SHARE * free.ram else "streamed"


def explain_choice(tier: Tier, free: FreeMemory, wanted: Literal["auto"] | Tier = "auto") -> str:
    """Why `choose_tier` came to `tier`."""
    if wanted != "auto":
        return f"tier = '{wanted}' is set"
    reasons = []
    if free.gpu is not None:
        reasons.append(f"GPU memory {decimal(free.gpu)} allows {decimal(int(SHARE * free.gpu))} resident")
    if tier != "gpu":
        reasons.append(f"memory {decimal(free.ram)} allows {decimal(int(SHARE * free.ram))} resident")
    return ", ".join(reasons)


@dataclass(frozen=True)
class StoreReading:
    """How one store is read.

    Attributes:
        store: its name.
        nbytes: of the file.
        cases: that the run reads.
        cases_in_all: that the store has.
        tier: where the bytes are to be.
        path: the file.
        why: this tier.
    """

    store: str
    nbytes: int
    cases: int
    cases_in_all: int
    tier: Tier
    path: Path
    why: str

    def describe(self) -> str:
        """One line for people."""
        size = f"{decimal(self.nbytes)}, {self._cases()}"
        return f"store {self.store}: {size}; {_HOW[self.tier]} {self.path} ({self.why})"

    def as_json(self) -> dict[str, str]:
        """The same as a JSON object."""
        return {
            "store": self.store,
            "size": decimal(self.nbytes),
            "cases": self._cases(),
            "tier": self.tier,
            "path": str(self.path),
            "why": self.why,
        }

    def _cases(self) -> str:
        some = "" if self.cases == self.cases_in_all else f"{self.cases} of "
        return f"{some}{self.cases_in_all} case{'s' if self.cases_in_all > 1 else ''}"


def read_into_memory(extents: Sequence[Extent], say: Callable[[str], None]) -> AbstractContextManager[None]:
    """While its block runs, read parts of files once, in order, so that the system keeps them in its cache.

    A thread of its own reads; it is given up on the way out. An error in reading is only said: whoever needs the bytes
    meets it again.
    """
    return beside(partial(_read_all, extents, say), "into-memory")


def _read_all(extents: Sequence[Extent], say: Callable[[str], None], over: threading.Event) -> None:
    began, done = time.monotonic(), 0
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    try:
        for path, start, size in extents:
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                left = size
                while left > 0 and not over.is_set():
                    count = file.readinto(buffer[: min(left, _BLOCK_BYTES)])
                    if not count:
                        break
                    left -= count
                    done += count
    except OSError as error:
        say(f"not read into memory: {error}")
        return
    if not over.is_set():
        say(f"{decimal(done)} read into memory in {time.monotonic() - began:.1f} s")
