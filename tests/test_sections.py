"""Every key is explained beside its definition; its type is said in words."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pytest
from pydantic import Field

from hpcseg import sections
from hpcseg.errors import BadInput
from hpcseg.screens.keys import every_group
from hpcseg.sections import Section, key, keys_of
from hpcseg.study.keys import parse_config

PURE_NUMBERS = {"seed", "data.split_seed", "preprocessing.window_range", "augmentation.log_scale", "table.baseline"}

EVERY_KEY = [known for groups in every_group().values() for group in groups for known in group.keys]


class Inner(Section):
    """A section."""

    share: sections.Fraction = key(0.5, "of the whole", unit="share", source="paper 1")
    mode: Literal["one", "two"] = key("one", "which", source="ours: one is enough")


class Outer(Section):
    """Sections in it are walked too, with the defaults that they have here."""

    sizes: tuple[int, ...] | Annotated[int, Field(ge=1)] | None = key(None, "of each", unit="mm", source="paper 2")
    inner: Inner = Inner(mode="two")


def test_keys_are_found_in_every_section_with_all_that_is_said_of_them() -> None:
    sizes, share, mode = keys_of(Outer)
    assert [sizes.name, share.name, mode.name] == ["sizes", "inner.share", "inner.mode"]
    assert mode.default == "two"
    assert (share.default, share.unit, share.source, share.description) == (0.5, "share", "paper 1", "of the whole")
    assert [sizes.kind, share.kind, mode.kind] == ["[integer, …] or integer ≥ 1", "0 ≤ number ≤ 1", '"one" or "two"']
    assert [sizes.holds_list, share.holds_list] == [True, False]


@pytest.mark.parametrize("known", EVERY_KEY, ids=lambda known: known.name)
def test_every_key_is_explained(known: sections.Key) -> None:
    assert known.description
    assert known.source.startswith(("paper", "ours: ", "sbatch"))
    numbers = re.search(r"number|integer|^\d", known.kind)
    assert bool(known.unit) or not numbers or known.name in PURE_NUMBERS


@pytest.mark.parametrize(
    "setting", ["training.epochs", "network.maps", "fold", "transfer.phi_steps", "data.foreground"]
)
@pytest.mark.parametrize("value", ["true", "[true]", "[[true]]"])
def test_true_is_no_number(setting: str, value: str) -> None:
    with pytest.raises(BadInput, match=rf"{setting}.* is not allowed"):
        parse_config([f"{setting}={value}"])


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_what_is_not_finite_is_no_number(value: str) -> None:
    with pytest.raises(BadInput, match=r"weight_decay.* is not allowed: should be a finite number"):
        parse_config([f"training.weight_decay={value}"])


def test_true_is_true_where_that_is_asked_for() -> None:
    assert parse_config(["training.compile=true"]).training.compile is True
