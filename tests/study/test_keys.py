from __future__ import annotations

from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.study.keys import is_axis, nest, parse_config, parse_setting, run_keys


def test_keys_that_hold_lists_are_known_by_their_type() -> None:
    assert {key for key, holds_list in run_keys().items() if holds_list} == {
        "data.supplementary",
        "data.foreground",
        "data.test_foreground",
        "preprocessing.spacing",
        "preprocessing.percentiles",
        "preprocessing.window",
        "preprocessing.window_range",
        "preprocessing.pyramid_clip",
        "augmentation.mirror",
        "network.maps",
    }


@pytest.mark.parametrize(
    ("key", "value", "axis"),
    [
        ("labelled", [2, 4], True),
        ("labelled", 2, False),
        ("network.maps", [16, 32], False),
        ("network.maps", [32, [16, 32]], True),
        ("data.foreground", [1, 2], False),
        ("data.foreground", [[1], [1, 2]], True),
        ("data.supplementary", [], False),
    ],
)
def test_a_list_is_an_axis_unless_the_key_holds_lists(key: str, value: Any, axis: bool) -> None:
    assert is_axis(key, value) is axis


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("strategy=baseline", "baseline"),
        ("strategy = [baseline, transfer]", ["baseline", "transfer"]),
        ("labelled=4", 4),
        ("labelled=[2, 4, all]", [2, 4, "all"]),
        ("data.dataset=Task03_Liver", "Task03_Liver"),
        ('data.dataset="Task 3"', "Task 3"),
        ("data.test=", ""),
        ("data.unlabelled_ts=true", True),
        ("training.learning_rate=1e-3", 1e-3),
        ("data.foreground=[[1], [2, 3]]", [[1], [2, 3]]),
    ],
)
def test_settings_are_toml_or_bare_words(setting: str, value: Any) -> None:
    assert parse_setting(setting)[1] == value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("labelled", "labelled: write key=value, for instance labelled=4"),
        ("labeled=4", "labeled=4: unknown key 'labeled'; did you mean 'labelled'?"),
        ("labelled=[2", "labelled=[2: the value cannot be read"),
        (f"labelled={'[' * 100_000}", f"labelled={'[' * 71}…: the value cannot be read"),
        (f"labelled={'1' * 5000}", f"labelled={'1' * 71}…: the value cannot be read"),
        ("labelled=a\0b", "labelled=a\0b: the value has characters that cannot be printed"),
        ("labelled=\x1b[2J", "labelled=\x1b[2J: the value has characters that cannot be printed"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_setting(setting)
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_nest_makes_sections() -> None:
    assert nest({"fold": 1, "data.folds": 3, "data.groups": ""}) == {"fold": 1, "data": {"folds": 3, "groups": ""}}


def test_parse_config_names_the_setting_that_is_wrong() -> None:
    assert parse_config(["preprocessing.spacing=[3, 2, 1]"]).preprocessing.spacing == (3, 2, 1)
    with pytest.raises(BadInput, match=r"^preprocessing\.spacing=-1: preprocessing\.spacing = -1 is not allowed"):
        parse_config(["preprocessing.spacing=-1"])
    with pytest.raises(BadInput, match=r"patches\.lattice = 'true' is not allowed: should be 1, 2, 4 or 8"):
        parse_config(["patches.lattice=true"])
