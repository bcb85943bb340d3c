"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hpcseg.host import memory_gib, usable_cores

PACKAGES = ("numpy", "torch", "h5py")


def describe() -> dict[str, str]:
    """CPU, cores that this process may use, memory, GPU if there is one, versions."""
    found = {"cpu": _cpu(), "cores": str(usable_cores()), "memory": f"{memory_gib():.0f} GiB"}
    if gpu := _gpu():
        found["gpu"] = gpu
    found["python"] = platform.python_version()
    return found | {package: package_version(package) for package in PACKAGES}


def package_version(package: str) -> str:
    """Version of an installed package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    question = [tool, "--query-gpu=name", "--format=csv,noheader"]
    asked = subprocess.run(question, capture_output=True, text=True, check=False)
    return ", ".join(asked.stdout.splitlines()) if asked.returncode == 0 else ""
