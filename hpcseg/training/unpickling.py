"""What `torch.save` wrote, read without running code and without more memory than the file has bytes.

`torch.load(weights_only=True)` runs no code either, but believes what a file says of itself: compressed parts grow a
thousandfold, and a tensor may be larger than its storage. Here every size is compared with the bytes that are there
before anything is allocated.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PROTOCOL = 2  # of the pickles of torch.save
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


def load_plain(payload: bytes) -> Any:
    """Nested dictionaries and lists of tensors (on the CPU), numbers and strings.

    Raises:
        pickle.UnpicklingError: it holds anything else.
        Exception: of any kind, where it is damaged, or sizes do not fit.
    """
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("a part is compressed")
        if sum(part.file_size for part in parts) > len(payload):
            raise ValueError("parts are larger than the file")
        (name,) = (part.filename for part in parts if part.filename.endswith("/data.pkl"))
        return _Unpickler(archive, name.removesuffix("data.pkl")).load()


class _Unpickler(pickle.Unpickler):
    """Builds tensors from the storages beside the pickle, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        content = archive.read(f"{folder}data.pkl")
        _require_plain(content)
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._archive, self._folder = archive, folder
        self._known: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few names that `torch.save` writes for plain values and tensors."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("torch", "Size"):
            return torch.Size
        if module in {"torch", "torch.storage"}:
            found = _STORAGES.get(name) or getattr(torch, name, None)
            if isinstance(found, torch.dtype):
                return found
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor."""
        _, dtype, key, _, count = pid
        if key not in self._known:
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._known[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()
        stored = self._known[key]
        if count * dtype.itemsize != stored.numel():
            raise ValueError(f"storage {key} has {stored.numel()} bytes")
        return stored.view(dtype)


def _require_plain(content: bytes) -> None:
    """Raise ValueError for opcodes that `torch.save` does not write and memos beyond the file: they ask for memory."""
    for code, argument, _ in pickletools.genops(content):
        if code.proto > PROTOCOL or ("PUT" in code.name and int(argument or 0) > len(content)):
            raise ValueError(f"{code.name} {argument}")


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], _grad: bool, _hooks: Any, *_: Any
) -> Tensor:
    """A tensor within its storage, of no more elements than that has."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError("not the shape of a tensor")
    count = math.prod(size)
    last = offset + sum((edge - 1) * step for edge, step in zip(size, stride, strict=True))
    if count > storage.numel() or (count and last >= storage.numel()):
        raise ValueError("a tensor is larger than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, _grad: bool, _hooks: Any) -> Tensor:
    return data
