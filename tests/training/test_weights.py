"""Copies are of the same bits and layout, and what is not finite is found, wherever it stands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpcseg.training.weights import copied, first_not_finite, on_host

SHAPES = [(), (3,), (4, 2, 3, 3, 3)]


def weights(dtype: torch.dtype) -> dict[str, Tensor]:
    made = {f"w{len(shape)}": (10 * torch.rand(shape, generator=torch.Generator().manual_seed(1))) for shape in SHAPES}
    made["last"] = made["w5"].to(memory_format=torch.channels_last_3d)
    return {name: tensor.to(dtype) for name, tensor in made.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_copies_are_the_same_and_share_nothing(dtype: torch.dtype) -> None:
    own = weights(dtype)
    kept = copied({name: torch.nn.Parameter(tensor, requires_grad=False) for name, tensor in own.items()})
    for name, tensor in own.items():
        assert torch.equal(kept[name], tensor) and kept[name].dtype == dtype, name
        assert kept[name].stride() == tensor.stride() and not kept[name].requires_grad, name
        tensor.add_(1)
        assert not torch.equal(kept[name], tensor), name
    assert all(on_host(kept)[name] is tensor for name, tensor in kept.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_first_tensor_that_is_not_finite_is_named(dtype: torch.dtype, value: float) -> None:
    found = weights(dtype) | {"steps": torch.tensor(7)}
    assert first_not_finite(found) is None and first_not_finite({}) is None
    found["last"][1, 1, 2, 2, 2] = value
    assert first_not_finite(found) == "last"
    found["w0"].fill_(value)
    assert first_not_finite(found) == "w0"
