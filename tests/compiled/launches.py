"""Launch Triton kernels as on a GPU that is not there: all of a launch happens but its last step.

Arguments go through the real specialisation (a 1 becomes a constant, divisibility by 16 is noted, None, int32 or
int64), kernels become machine code for the architecture asked for, and the launcher is handed what the real one would
be: it checks what CUDA's would refuse, and computes nothing. Tensors lie on the CPU. Not with TRITON_INTERPRET.

    with launched_nowhere(90) as launches:
        norm.statistics(...)
    assert launches[0].kernel == "sum_up"

Where `tests.offline` compiles what its lists say, this compiles what is really launched.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tests.offline import SHARED_BYTES

MOST_PROGRAMS = (2**31 - 1, 65535, 65535)
_INTEGERS = {f"{sign}{bits}": bits for sign in "iu" for bits in (1, 8, 16, 32, 64)}


@dataclass(frozen=True)
class Launch:
    """What was launched.

    Attributes:
        kernel: its name.
        grid: programs along three axes.
        types: of each argument, after specialisation: "*bf16", "i32", "constexpr", ...
        constants: values of the arguments that became constants.
        divisible: arguments of which 16 is a divisor.
        warps: of a program.
        shared: bytes of shared memory of a program.
        machine_code: what a GPU would be given.
    """

    kernel: str
    grid: tuple[int, int, int]
    types: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    warps: int
    shared: int
    machine_code: bytes = field(repr=False)

    def resources(self) -> tuple[int, int]:
        """Registers and bytes of local memory (spills and arrays) of a thread."""
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.machine_code)
            file.flush()
            command = [str(tool), "--dump-resource-usage", file.name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+)", said)
        assert found, said
        return int(found[1]), int(found[2])


@contextmanager
def launched_nowhere(architecture: int = 90) -> Iterator[list[Launch]]:
    """Meanwhile compile what is launched for GPUs of an architecture, and note it; nothing is written to outputs."""
    assert not triton.knobs.runtime.interpret, "Triton interprets"
    before, launches = driver._active, list[Launch]()
    driver.set_active(_Driver(architecture, launches))
    try:
        yield launches
    finally:
        driver._active = before


class _Driver:
    """What `triton.runtime.driver.active` has to have; the device's number is the architecture: caches go by it."""

    def __init__(self, architecture: int, launches: list[Launch]) -> None:
        self.architecture = architecture
        self.launches = launches
        self.utils = self
        self.launcher_cls = _Launcher

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_device_capability(self, _device: int = 0) -> tuple[int, int]:
        return divmod(self.architecture, 10)

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES[self.architecture], "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, name: str, code: bytes, _shared: int, _device: int) -> tuple[None, bytes, int, int, int]:
        assert code, f"{name}: no machine code"
        return None, code, 0, 0, 1024  # module, function, registers, spills, most threads

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


class _Launcher:
    def __init__(self, source: Any, metadata: Any) -> None:
        self.metadata = metadata
        self.names = names = source.fn.arg_names
        self.types = {name: source.signature[name] for name in names}
        self.constants = {names[path[0]]: value for path, value in source.constants.items()}
        divided = {path[0] for path, what in source.attrs.items() if any(one[0] == "tt.divisibility" for one in what)}
        self.divisible = tuple(names[place] for place in sorted(divided))

    def __call__(self, x: int, y: int, z: int, _stream: int, code: bytes, *rest: Any) -> None:
        name = self.metadata.name
        for size, most in zip((x, y, z), MOST_PROGRAMS, strict=True):
            assert 0 <= size.__index__() <= most, f"{name}: grid {x, y, z}"
        # Triton's launcher multiplies them as C's int, and launches nothing unless that is positive.
        assert x * y * z < 1 << 31, f"{name}: grid {x, y, z}"
        for argument, value in zip(self.names, rest[-len(self.names) :], strict=True):
            _check(f"{name}: {argument}", self.types[argument], value)
        shared, warps = self.metadata.shared, self.metadata.num_warps
        launch = Launch(name, (x, y, z), self.types, self.constants, self.divisible, warps, shared, code)
        driver.active.launches.append(launch)


def _check(what: str, kind: str, value: Any) -> None:
    """Whether the real launcher takes a value as the type for which the kernel was compiled."""
    if kind.startswith("*"):
        assert value is None or isinstance(value.data_ptr(), int), what
    elif kind in _INTEGERS:
        bits = _INTEGERS[kind]
        unsigned = kind[0] == "u" or bits == 1
        low, high = (0, 1 << bits) if unsigned else (-(1 << bits - 1), 1 << bits - 1)
        assert low <= value.__index__() < high, f"{what} = {value} is no {kind}"
    elif kind != "constexpr":
        float(value)
