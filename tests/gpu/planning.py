"""The choice of kernels as a training run makes it (`hpcseg.training.kernel_choice`), measured once for all parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from hpcseg.files import read_json, write_json
from hpcseg.paths import KERNELS_FILE
from hpcseg.training.control import Control
from hpcseg.training.kernel_choice import choose_kernels
from hpcseg.training.task import Task
from tests.gpu.kit import Kit

FNET = "fnet"


def plan(kit: Kit, task: Task, network: str = FNET) -> dict[str, Any] | None:
    """Let a task's convolutions compute as is fastest here; the step is left unrecorded.

    Args:
        kit: whose folder remembers the choice.
        task: of one of the networks that are measured.
        network: its name, for the memory.

    Returns:
        As `choose_kernels`.
    """
    run = _folder(kit, task, network)
    if (run / KERNELS_FILE).exists():
        from hpcseg.networks.autotune import apply_plan

        record: dict[str, Any] = read_json(run / KERNELS_FILE)
        apply_plan(nn.ModuleDict(task.modules), record["convolutions"])
        return record
    run.mkdir(exist_ok=True)
    chosen = choose_kernels(run, task, Control(run, silent=True))
    task.graphed = None
    if kit.kept is not None:
        path = kit.kept / KERNELS_FILE
        write_json(path, {**(read_json(path) if path.exists() else {}), run.name.removeprefix("kernels-"): chosen})
    return chosen


def remembered(kit: Kit, precision: str, run: Path) -> None:
    """Give a new F-Net run the choice that was made before, if there is one."""
    known = kit.folder / f"kernels-{FNET}-{precision}" / KERNELS_FILE
    if known.exists():
        shutil.copy(known, run)


def _folder(kit: Kit, task: Task, network: str) -> Path:
    return kit.folder / f"kernels-{network}-{task.precision.convolutions}"
