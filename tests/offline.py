"""Compile kernels for GPUs without having one: `python -m tests.offline MODULE:ARCH ...` compiles `MODULE.VARIANTS`.

Triton's interpreter shows that kernels compute what they should; this shows that they become machine code, how many
registers it takes, whether some are spilled, and whether matrix products use the tensor cores. Run in a process of its
own: Triton interprets kernels or compiles them, and that is settled when they are imported.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}  # that one block may have, on an A100 and on an H100 or H200


@dataclass(frozen=True)
class Variant:
    """One way in which a kernel is launched.

    Attributes:
        name: for people.
        kernel: the `triton.jit` function.
        types: of its arguments that are no constants: "*bf16", "*fp32", "*i64", "i32", ...
        constants: values of its `tl.constexpr` arguments.
        aligned: arguments that are multiples of 16; None: all pointers.
        options: num_warps, num_stages, ...
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What a variant became: registers of a thread, bytes spilled, bytes of shared memory, matrix instructions."""

    name: str
    registers: int
    spilled: int
    shared: int
    wgmma: int  # Hopper's warp-group matrix instructions in the PTX
    mma: int  # those of all tensor cores since Ampere


def compile_all(wanted: Sequence[tuple[str, int]]) -> list[list[Compiled]]:
    """Compile the variants of modules, each for an architecture, in one process of their own.

    Raises:
        AssertionError: one does not compile; with what the compiler said.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [f"{module}:{architecture}" for module, architecture in wanted]
    command = [sys.executable, "-m", "tests.offline", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=_root())
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return [[Compiled(**one) for one in json.loads(line)] for line in done.stdout.splitlines()[-len(words) :]]


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _compiled(variant: Variant, architecture: int) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    missing = set(names) - set(variant.types) - set(variant.constants)
    assert not missing, f"{variant.name}: no type for {sorted(missing)}"
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    aligned = variant.aligned or [name for name, kind in variant.types.items() if kind.startswith("*")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(variant.kernel, signature, constexprs=dict(variant.constants), attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    kernel = triton.compile(source, target=target, options=dict(variant.options))
    ptx = kernel.asm["ptx"]
    registers, spilled = _resources(ptx, architecture)
    return Compiled(
        variant.name,
        registers,
        spilled,
        kernel.metadata.shared,
        len(re.findall(r"wgmma\.mma_async", ptx)),
        len(re.findall(r"\bmma\.sync", ptx)),
    )


def _resources(ptx: str, architecture: int) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as NVIDIA's assembler reports them."""
    from triton.backends.nvidia.compiler import get_ptxas

    path = get_ptxas(architecture)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.ptx").write_text(ptx)
        name = f"sm_{architecture}a" if architecture >= 90 else f"sm_{architecture}"
        command = [str(getattr(path, "path", path)), "-v", f"--gpu-name={name}", "kernel.ptx", "-o", "kernel.cubin"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    registers = max(int(number) for number in re.findall(r"Used (\d+) registers", said))
    spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill stores", said))
    return registers, spilled


if __name__ == "__main__":
    for word in sys.argv[1:]:
        module, _, architecture = word.partition(":")
        variants = importlib.import_module(module).VARIANTS
        print(json.dumps([asdict(_compiled(variant, int(architecture))) for variant in variants]))
