"""All kernels become machine code that keeps its sums in registers and, where it multiplies, uses the tensor cores.

One process compiles them all: a torch of its own for each would take longer than most of them.
"""

from __future__ import annotations

import re

import pytest
import torch

from hpcseg.networks.kernels.convolution import shared_bytes
from tests.offline import SHARED_BYTES, Compiled, compile_all

pytest.importorskip("triton")
# What an H100 is given is in test_paper_step.py, too.
ON_AMPERE = ("dice", "merge", "norm", "stamps", "winners")
ON_BOTH = ("convolution", "gather")
Variants = dict[tuple[str, int], list[Compiled]]


@pytest.fixture(scope="module")
def variants() -> Variants:
    """What the variants of each module became, by its name and the architecture."""
    wanted = [*((name, 80) for name in ON_AMPERE), *((name, arch) for name in ON_BOTH for arch in (80, 90))]
    return dict(zip(wanted, compile_all([(f"tests.compiled.{name}", arch) for name, arch in wanted]), strict=True))


@pytest.mark.parametrize("name", ON_AMPERE)
def test_nothing_spills(name: str, variants: Variants) -> None:
    for one in variants[name, 80]:
        assert one.spilled == 0, one
        assert one.shared <= SHARED_BYTES[80], one


def test_batch_norms_of_32_maps_leave_registers_for_four_programs_at_a_time(variants: Variants) -> None:
    for one in variants["norm", 80]:
        if "32 maps" in one.name:
            assert one.registers <= 128, one


def test_reading_the_code_which_is_most_of_the_winners_time_has_many_loads_in_flight(variants: Variants) -> None:
    for one in variants["winners", 80]:
        if one.name.startswith("group_maxima") and "256×" in one.name:
            assert one.registers <= 128, one


@pytest.mark.parametrize("architecture", [80, 90])
def test_of_the_gathering_kernels_two_blocks_fit_on_a_multiprocessor(architecture: int, variants: Variants) -> None:
    for one in variants["gather", architecture]:
        assert one.spilled == 0, one
        assert one.registers <= 128, one  # two blocks of eight warps, at least
        assert one.shared <= 16 << 10, one


def test_on_hopper_sums_stay_in_registers_and_warp_groups_multiply(variants: Variants) -> None:
    for one in variants["convolution", 90]:
        assert one.spilled == 0, one
        assert one.shared <= SHARED_BYTES[90], one
        assert (one.wgmma > 0) == ("fp32" not in one.name or "older" in one.name), one
        if "M128" in one.name or "P64" in one.name:  # two at once on a multiprocessor
            assert one.shared + 1024 <= (228 << 10) // 2, one


@pytest.mark.parametrize("architecture", [80, 90])
def test_the_shared_memory_that_convolutions_take_is_foreseen(architecture: int, variants: Variants) -> None:
    for one in variants["convolution", architecture]:
        found = re.fullmatch(r"(\w+(?: gradient)?) (\d+) (\w+?)(?: [MP](\d+))?", one.name)
        assert found is not None, one.name
        if found[1] == "weight gradient" and found[4] == ("64" if architecture < 90 else "32"):
            continue  # launched on the other
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[found[3]]
        sizes = (int(found[2]), 32, 5, dtype)
        operation, wide, older = found[1].replace(" ", "_"), found[4] == "256", architecture < 90
        need = shared_bytes(operation, *sizes, wide=wide, older=older)
        assert need <= one.shared <= 1.2 * need or (need == 0 and one.shared <= 48 << 10), one


def test_on_ampere_few_registers_spill(variants: Variants) -> None:
    for one in variants["convolution", 80]:
        assert one.shared <= SHARED_BYTES[80], one
        assert (one.mma > 0) == ("fp32" not in one.name), one
        assert one.spilled <= 256 or "P64" in one.name, one  # which is launched on Hopper only
