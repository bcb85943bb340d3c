"""Whether this Python can run `make gpu` here: `python -m tests.gpu.ready`. Imports nothing that might be missing.

Exit status 0: it can. 1: there is no GPU, which it says. 2: something is missing, which it says. With --gpu it asks for
a GPU alone, not for packages; with --least for what the first parts need: the others then say what they lack.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence

LEAST = ("torch", "triton", "numpy")
MODULES = (
    *(*LEAST, "scipy", "h5py", "nibabel", "pydantic", "filelock", "threadpoolctl"),
    *("pytest", "pytest_timeout", "hypothesis", "submitit", "edt", "cc3d"),
)
COMPILERS = ("gcc", "cc", "clang")
NO_GPU, MISSING = 1, 2
OLDEST = (3, 11)


def nvidia_gpu() -> str:
    """Name of the first GPU that the driver tells of; "" without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        asked = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = asked.stdout.splitlines() if asked.returncode == 0 else []
    return next((line for line in lines if line.startswith("GPU ")), "")


def absent(modules: Sequence[str]) -> list[str]:
    """Those of the modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def missing(modules: Sequence[str]) -> list[str]:
    """What this Python does not have."""
    old = [] if sys.version_info >= OLDEST else ["Python 3.11 or later"]
    lacks = absent(modules)
    if "torch" not in lacks and not old:
        import torch

        if not torch.cuda.is_available():
            lacks.append("a torch that sees the GPU")
    if not any(map(shutil.which, COMPILERS)):
        lacks.append("a C compiler, for Triton")
    return old + lacks


def main(arguments: Sequence[str] = ()) -> int:
    """Say what is wrong, if anything."""
    if not nvidia_gpu():
        print("make gpu: there is no GPU here, so nothing was measured; docs/benchmarks-gpu.md stays as it was")
        return NO_GPU
    lacks = [] if "--gpu" in arguments else missing(LEAST if "--least" in arguments else MODULES)
    if lacks:
        print(f"make gpu: {sys.executable} lacks {', '.join(lacks)}")
        return MISSING
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
