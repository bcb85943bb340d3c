"""What of this machine and this folder of runs can hinder a study: facts are read, findings follow from them."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from hpcseg.errors import NO_LOCKS, HpcsegError
from hpcseg.host import available_memory, usable_cores
from hpcseg.owners import require_own_ways
from hpcseg.slurm.calls import CallError
from hpcseg.slurm.commands import read_cluster
from hpcseg.version import code_version

LITTLE_GIB, FEW_GIB = 1.0, 20.0  # free on the disk of the runs: a problem, a note
FEW_FILES = 10_000  # that a disk still takes
CLOCK_S = 5.0  # between this clock and that of the disk
EARLIEST = 1_735_689_600  # 2025-01-01: a clock that is earlier is wrong

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, and where it is not ok what that means and what to do."""

    what: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    """What was read; sizes in GiB.

    Attributes:
        code: version of hpcseg and commit.
        packages: requirement -> version that is installed, "" where it is missing.
        unmet: of these, what is missing or too old.
        torch: its version and "CUDA 12.6" or "CPU build"; or why it cannot be imported, with `torch_fails`.
        gpus: names and memory that torch sees.
        driver: whether NVIDIA's driver is here.
        triton: whether GPU kernels can be compiled.
        slurm: cluster's name; "" where there is none; or what it answered, with `slurm_fails`.
        runs: folder of the runs, or the nearest one above that exists.
        writable: whether something can be written there.
        refused: why hpcseg will not execute what lies there.
        locks: whether files can be locked there; None: not known.
        clock_off: seconds from this clock to that of the disk; None: not known.
    """

    code: str
    python: str
    packages: dict[str, str]
    unmet: tuple[str, ...]
    torch: str
    torch_fails: bool
    gpus: tuple[str, ...]
    driver: bool
    triton: bool
    slurm: str
    slurm_fails: bool
    cores: int
    memory: float
    runs: Path
    writable: bool
    refused: str
    locks: bool | None
    free: float
    free_files: int | None
    clock: float
    clock_off: float | None


def read_facts(runs: Path) -> Facts:
    """Look at this machine, and at the folder of runs; a second, most of which torch takes to load."""
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    packages, unmet = _packages()
    torch, fails, gpus, triton = _torch()
    slurm, slurm_fails = _slurm()
    disk = os.statvfs(place)
    writable = os.access(place, os.W_OK | os.X_OK)
    locks, clock_off = _tried(place) if writable else (None, None)
    version = code_version()
    return Facts(
        code=" ".join(version.values()),
        python=f"{sys.version.split()[0]}, {sys.executable}",
        packages=packages,
        unmet=unmet,
        torch=torch,
        torch_fails=fails,
        gpus=gpus,
        driver=shutil.which("nvidia-smi") is not None,
        triton=triton,
        slurm=slurm,
        slurm_fails=slurm_fails,
        cores=usable_cores(),
        memory=available_memory() / 2**30,
        runs=place,
        writable=writable,
        refused=_refused(runs),
        locks=locks,
        free=disk.f_bavail * disk.f_frsize / 2**30,
        free_files=disk.f_favail if disk.f_files else None,
        clock=time.time(),
        clock_off=clock_off,
    )


def examine(facts: Facts) -> list[Finding]:
    """What follows from the facts. Pure."""
    return [
        Finding("hpcseg", "ok", facts.code),
        Finding("Python", "ok", facts.python),
        _of_packages(facts),
        _of_torch(facts),
        _of_gpus(facts),
        _of_slurm(facts),
        Finding("cores, memory", "ok", f"{facts.cores} cores, {facts.memory:.1f} GiB free"),
        _of_folder(facts),
        _of_disk(facts),
        _of_clock(facts),
    ]


def _of_packages(facts: Facts) -> Finding:
    if facts.unmet:
        advice = "hpcseg was not tried with these: install it again into this environment, by pip or make setup"
        return Finding("packages", "problem", "; ".join(facts.unmet), advice)
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in facts.packages.items()))


def _of_torch(facts: Facts) -> Finding:
    if facts.torch_fails:
        advice = "nothing trains or segments without it: pip install torch, of the release that your driver allows"
        return Finding("torch", "problem", facts.torch, advice)
    return Finding("torch", "ok", facts.torch)


def _of_gpus(facts: Facts) -> Finding:
    if facts.gpus and not facts.triton:
        advice = (
            "kernels are torch's alone, and slower: Triton wants a C compiler and Python's headers (gcc, python3-dev)"
        )
        return Finding("GPU", "note", ", ".join(facts.gpus), advice)
    if facts.gpus:
        return Finding("GPU", "ok", ", ".join(facts.gpus))
    if facts.driver and not facts.torch_fails:
        advice = "runs here would compute on the CPU: install a torch with CUDA that fits the driver (nvidia-smi)"
        return Finding("GPU", "problem", "NVIDIA's driver is here, and torch sees no GPU", advice)
    return Finding("GPU", "ok", "none here: runs compute on the CPU, unless they are a cluster's jobs")


def _of_slurm(facts: Facts) -> Finding:
    if facts.slurm_fails:
        advice = "jobs can neither be sent nor seen until it answers (sinfo shows it); --on local uses this machine"
        return Finding("Slurm", "problem", facts.slurm, advice)
    return Finding("Slurm", "ok", facts.slurm or "none here: hpcseg sweep uses this machine")


def _of_folder(facts: Facts) -> Finding:
    if not facts.writable:
        advice = "name a folder where you may write with --runs"
        return Finding("folder of runs", "problem", f"{facts.runs}: not writable", advice)
    if facts.refused:
        advice = (
            "jobs execute what lies there, so it is to be yours alone: chmod go-w, or another --runs (docs/security.md)"
        )
        return Finding("folder of runs", "problem", facts.refused, advice)
    if facts.locks is False:
        advice = "two jobs could write one run: another --runs, or have it mounted with them (Lustre: -o flock)"
        return Finding("folder of runs", "problem", f"{facts.runs}: its file system has no locks (flock)", advice)
    return Finding("folder of runs", "ok", str(facts.runs))


def _of_disk(facts: Facts) -> Finding:
    found = f"{facts.free:,.1f} GiB free"
    few = facts.free_files is not None and facts.free_files < FEW_FILES
    if facts.free < LITTLE_GIB or few:
        found += f", {facts.free_files:,} files" if few else ""
        advice = "runs end when it is full, and go on when there is room again: free some, or use another --runs"
        return Finding("disk", "problem", found, advice)
    if facts.free < FEW_GIB:
        advice = "a store takes about as much as its scans unpacked, a run two checkpoints: look before many runs"
        return Finding("disk", "note", found, advice)
    return Finding("disk", "ok", found)


def _of_clock(facts: Facts) -> Finding:
    if facts.clock < EARLIEST:
        advice = "times of runs, and certificates of downloads, will be wrong: set it, as with chronyd or ntpd"
        return Finding("clock", "problem", time.ctime(facts.clock), advice)
    if facts.clock_off is not None and abs(facts.clock_off) > CLOCK_S:
        advice = "jobs of other hosts may show as stalled or lost: have both use the same time server"
        return Finding("clock", "note", f"{facts.clock_off:+.0f} s from this host to the disk of the runs", advice)
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(facts.clock)))


def _packages() -> tuple[dict[str, str], tuple[str, ...]]:
    """Versions of what hpcseg needs, and what is missing or too old."""
    from packaging.requirements import Requirement

    versions, unmet = {}, []
    try:
        lines = metadata.requires("hpcseg") or []
    except metadata.PackageNotFoundError:
        return {}, ()  # a checkout on the path
    for need in map(Requirement, lines):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[need.name] = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            unmet.append(f"{need.name}: not installed")
            continue
        if not need.specifier.contains(versions[need.name], prereleases=True):
            unmet.append(f"{need.name} {versions[need.name]} is not {need.specifier}")
    return versions, tuple(unmet)


def _torch() -> tuple[str, bool, tuple[str, ...], bool]:
    """Version of torch, whether it fails, the GPUs that it sees, whether Triton can launch."""
    try:
        import torch

        from hpcseg.kernels import triton_works
    except (ImportError, OSError) as error:
        return f"cannot be imported ({str(error).splitlines()[0]})", True, (), False
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    known = [torch.cuda.get_device_properties(index) for index in gpus]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    names = tuple(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in known)
    return f"{torch.__version__}, {build}", False, names, bool(names) and triton_works()


def _slurm() -> tuple[str, bool]:
    """The cluster's name, or what is wrong with Slurm and True."""
    try:
        return f"cluster {read_cluster().name}", False
    except CallError as error:
        return ("", False) if error.failure == "absent" else (f"scontrol gives no answer ({error})", True)


def _refused(runs: Path) -> str:
    if runs.exists() and not runs.is_dir():
        return f"{runs}: a file, and no folder"
    try:
        require_own_ways(runs)
    except HpcsegError as error:
        return str(error).partition("; ")[0]
    return ""


def _tried(folder: Path) -> tuple[bool | None, float | None]:
    """Whether a file in a folder can be locked, and by how many seconds its disk's clock is ahead of this host's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"now")
            file.flush()
            clock_off = os.fstat(file.fileno()).st_mtime - time.time()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return (False if error.errno in NO_LOCKS else None), clock_off
            return True, clock_off
    except OSError:
        return None, None
