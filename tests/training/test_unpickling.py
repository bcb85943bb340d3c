"""Tensor files made on purpose: sizes are compared with what is there before anything is allocated."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hpcseg.training.unpickling import load_plain


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def repacked(payload: bytes, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same archive with other parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as old, zipfile.ZipFile(out, "w", method) as new:
        for part in old.infolist():
            new.writestr(part.filename, change(part.filename, old.read(part)))
    return out.getvalue()


def test_what_torch_saves_comes_back_to_the_bit() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.BatchNorm3d(3))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(1, 2, 4, 4, 4)).sum().backward()
    optimizer.step()
    view = torch.arange(24).reshape(4, 6).t()[1:]
    kinds = [torch.tensor([1.5], dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)]
    value = {
        "weights": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "kinds": [*kinds, torch.tensor([True]), torch.empty(0, 3), view],
        "plain": [1, 2.5, None, "é", (1, 2), True, 1 << 70, torch.float32],
    }
    found, expected = load_plain(saved(value)), torch.load(io.BytesIO(saved(value)), weights_only=True)
    assert str(found) == str(expected)
    weight = next(network.parameters())
    assert torch.equal(load_plain(saved({"w": weight}))["w"], weight)  # as a tensor
    for key, tensor in expected["weights"].items():
        assert torch.equal(found["weights"][key], tensor)
    for one, other in zip(found["kinds"], expected["kinds"], strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def test_compressed_parts_do_not_grow() -> None:
    bomb = repacked(
        saved({"w": torch.zeros(50_000_000, dtype=torch.uint8)}), lambda _, part: part, zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="compressed"):
        load_plain(bomb)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_tensor_is_not_larger_than_its_storage() -> None:
    for tensor in (torch.zeros(1).expand(1000, 1000), torch.zeros(8).as_strided((9,), (0,))):
        with pytest.raises(ValueError, match="larger than its storage"):
            load_plain(saved({"w": tensor}))


def test_a_storage_has_the_bytes_that_it_claims() -> None:
    payload = saved({"w": torch.zeros(8)})
    cut = repacked(payload, lambda name, part: part[:8] if "/data/" in name else part)
    with pytest.raises(ValueError, match="has 8 bytes"):
        load_plain(cut)


@pytest.mark.parametrize("seed", range(40))
def test_mutations_of_the_pickle_give_values_or_an_exception(seed: int) -> None:
    payload, random = saved({"w": torch.arange(6.0), "n": [1, "two"], "d": {"x": None}}), np.random.default_rng(seed)

    def mutated(name: str, part: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return part
        changed = bytearray(part)
        changed[random.integers(len(part))] = random.integers(256)
        return bytes(changed)

    try:
        load_plain(repacked(payload, mutated))
    except Exception as error:
        assert not isinstance(error, MemoryError)


def test_only_the_names_of_tensors_are_looked_up() -> None:
    for value in (io.BytesIO, np.float64(1.0), print):
        with pytest.raises((pickle.UnpicklingError, pickle.PicklingError)):
            load_plain(saved({"w": value}))


def test_a_memo_beyond_the_file_allocates_nothing() -> None:
    payload = saved({"w": 1})
    bomb = b"\x80\x02}r" + (1 << 27).to_bytes(4, "little") + b"."
    tracemalloc.start()
    with pytest.raises(ValueError, match="LONG_BINPUT"):
        load_plain(repacked(payload, lambda name, part: bomb if name.endswith("data.pkl") else part))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
