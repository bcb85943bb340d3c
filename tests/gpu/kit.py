"""What a part of `make gpu` is given, and what it hands back."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hpcseg.errors import HpcsegError
from tests.benchmarks.figures import Skipped
from tests.gpu.device import Machine
from tests.gpu.parts import Part
from tests.gpu.ready import MODULES, absent
from tests.gpu.sizes import Sizes

Result = TypeVar("Result")
_PATH = re.compile(r"(?<![\w.)])/(?:[\w.+~-]+/)+([\w.+~-]+)")  # absolute, of which the last part is shown
PACKAGES = {"cc3d": "connected-components-3d", "pytest_timeout": "pytest-timeout"}  # whose module is called otherwise
_LONGEST = 240  # characters of a remark


@dataclass
class Table:
    """A table of the page; cells are text already."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass
class Found:
    """What a part found.

    Attributes:
        figures: bare numbers by name.
        tables, lines: for people.
        missing: what this machine cannot do, and was not measured.
        failed: what went wrong.
        late: what there was no time for.
        state: "at work", "done", "failed", "stopped" (out of time) or "not run".
        seconds: that it took.
    """

    figures: dict[str, float] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    state: str = "done"
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, plain: dict[str, Any]) -> Found:
        return cls(**{**plain, "tables": [Table(**table) for table in plain["tables"]]})


def _forget(_: Found) -> None:
    """Keep nothing."""


class DeviceIsLost(Exception):
    """A kernel broke the device's context; nothing more can be measured in this process."""


@dataclass
class Kit:
    """What there is to work with.

    Attributes:
        machine: to measure on.
        sizes: of everything.
        folder: of all runs; the store of `material` is in it.
        until: when the part's time is over, as `time.monotonic` counts.
        earlier: figures of the parts before this one.
        found: by this one.
        keep: called with what was found so far before anything that may hang, and at the end.
        kept: folder of what is kept beside the page: the choice of kernels, traces.
        began: when, as `time.monotonic` counts.
    """

    machine: Machine
    sizes: Sizes
    folder: Path
    until: float = float("inf")
    earlier: dict[str, float] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    keep: Callable[[Found], None] = _forget
    kept: Path | None = None
    began: float = field(default_factory=time.monotonic)

    def measure(self, part: Part) -> None:
        """Measure a part; whatever happens stands in what was found.

        Raises:
            DeviceIsLost: the device cannot be used any more.
        """
        self.found.state = "at work"
        self._keep()
        try:
            part.measure()(self)
            self.found.state = "done"
        except ModuleNotFoundError as error:
            self.found.state = "not run"
            self.found.missing.append(lacking(error))
        except Exception as error:
            self.found.state = "failed"
            lost = "the device was lost" if isinstance(error, DeviceIsLost) else type(error).__name__
            self.found.failed.append(plain(f"{lost}: {error}"))
            traceback.print_exc()
            if isinstance(error, DeviceIsLost):
                raise
        finally:
            self._keep()

    def _keep(self) -> None:
        self.found.seconds = round(time.monotonic() - self.began, 1)
        self.keep(self.found)

    def attempt(self, what: str, work: Callable[[], Result]) -> Result | None:
        """Do `work`; where it fails, or there is no time left, note that and why, and go on with None.

        Raises:
            DeviceIsLost: the device cannot be used any more.
        """
        self._keep()
        if self.seconds_left() <= 0:
            self.found.late.append(plain(what))
            return None
        try:
            return work()
        except (Skipped, HpcsegError) as reason:
            self.found.missing.append(plain(f"{what}: {reason}"))
        except ModuleNotFoundError as error:
            self.found.missing.append(f"{plain(what)}: {lacking(error)}")
        except Exception as error:
            self.found.failed.append(plain(f"{what}: {_where(error)}{type(error).__name__}: {error}"))
            traceback.print_exc()
            try:
                self.machine.synchronize()
            except Exception as lost:
                raise DeviceIsLost(str(lost)) from error
        finally:
            self.machine.free()
        return None

    def seconds_left(self) -> float:
        """Until the part's time is over."""
        return self.until - time.monotonic()

    def figure(self, name: str, value: float) -> None:
        """Keep a number."""
        self.found.figures[name] = float(f"{value:.5g}")

    def known(self, name: str) -> float | None:
        """A figure of this part or of one before."""
        return self.found.figures.get(name, self.earlier.get(name))

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
        """Keep a table, if it has rows."""
        if rows:
            self.found.tables.append(Table(title, list(head), [list(map(plain, row)) for row in rows], note))

    def maps(self, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
        """Standard normal maps (B, K, D, H, W), drawn on the device, in the layout of the networks."""
        device = self.machine.device
        generator = torch.Generator(device).manual_seed(seed)
        numbers = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        return numbers.to(dtype).contiguous(memory_format=torch.channels_last_3d)

    def say(self, line: str) -> None:
        """Keep a remark."""
        self.found.lines.append(plain(line))


def lacking(error: ModuleNotFoundError | None = None) -> str:
    """Which modules are not installed, and how they come onto the path of a machine that reaches no registry."""
    modules = absent(MODULES) or [str(error)]
    names = " ".join(PACKAGES.get(name, name) for name in modules)
    return f"{', '.join(modules)} not installed: where there is a registry, pip install --target=more {names}; then \
PYTHONPATH=more"


def plain(text: str) -> str:
    """One line without folders, as it may stand in `docs/`, and not too long."""
    line = " ".join(_PATH.sub(r"\1", text).replace("://", ":").replace("|", "¦").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _where(error: BaseException) -> str:
    """File and line in which an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""
