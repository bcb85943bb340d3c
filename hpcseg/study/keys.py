"""The keys of a run, as dotted names: what exists, and which of them hold lists.

In a grid, a list is an axis, unless the key itself holds a list: then a flat list is one value, and a list that
contains lists is an axis. `network.maps = [16, 32]` is one network; `network.maps = [32, [16, 32]]` are two. One value
that is itself a list of lists (`data.foreground` with several classes) is written `[[[1], [2]]]` in a grid.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from hpcseg.config import RunConfig, key_groups
from hpcseg.errors import BadInput
from hpcseg.study.tomlfile import explain
from hpcseg.text import nearest

_BARE_WORD = re.compile(r"""(?<![\w."'/-])[A-Za-z_][\w./-]*""")
_LITERALS = {"true", "false", "inf", "nan"}


@functools.cache
def run_keys() -> dict[str, bool]:
    """Every dotted key of a run, and whether it holds a list."""
    return {key.name: key.holds_list for group in key_groups() for key in group.keys}


def is_axis(key: str, value: Any) -> bool:
    """Whether `value` lists values of `key`, rather than being one."""
    if not isinstance(value, list):
        return False
    return not run_keys()[key] or any(isinstance(item, list) for item in value)


def is_either(key: str, value: Any) -> bool:
    """Whether a list of lists may be one value of `key` as well as several: [[1], [2]] of `data.foreground`."""
    try:
        return is_axis(key, value) and run_keys()[key] and RunConfig.model_validate(nest({key: value})) is not None
    except ValidationError:
        return False


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as the nested tables that `RunConfig` reads."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def parse_setting(setting: str) -> tuple[str, Any]:
    """Key and value of `key=value`; the value is TOML, or bare words as strings (`baseline`, `[baseline, transfer]`).

    Raises:
        BadInput: not of that form, an unknown key, or a value that cannot be read.
    """
    key, equals, text = (part.strip() for part in setting.partition("="))
    if not equals:
        raise BadInput(f"{setting}: write key=value, for instance labelled=4")
    if key not in run_keys():
        raise BadInput(f"{setting}: unknown key '{key}'{nearest(key, run_keys())} (hpcseg keys)")
    if not text.isprintable() and not text.isspace():
        raise BadInput(f"{setting}: the value has characters that cannot be printed")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError) as error:
        if not isinstance(error, tomllib.TOMLDecodeError):  # a number of thousands of digits, brackets in brackets
            raise BadInput(f"{setting[:80]}…: the value cannot be read ({str(error).split(';')[0]})") from None
        if not text.startswith(("[", "{", '"', "'")):
            return key, text
    quoted = _BARE_WORD.sub(lambda word: word[0] if word[0] in _LITERALS else f'"{word[0]}"', text)
    try:
        return key, tomllib.loads(f"value = {quoted}")["value"]
    except (RecursionError, ValueError) as error:
        raise BadInput(f"{setting}: the value cannot be read ({str(error).split(' (')[0]})") from None


def parse_config(settings: Sequence[str]) -> RunConfig:
    """A run's configuration from `key=value` settings over the defaults.

    Raises:
        BadInput: a key or value is not allowed.
    """
    given = {parse_setting(setting)[0]: setting for setting in settings}
    try:
        return RunConfig.model_validate(nest(dict(parse_setting(setting) for setting in settings)))
    except ValidationError as error:
        key, message = explain(error, run_keys())
        raise BadInput(f"{given.get(key, 'settings')}: {message}{explained(key)}") from None


def explained(key: str) -> str:
    """The command that explains a key, for the end of a message.

    >>> explained("labelled"), explained("nothing")
    (' (hpcseg keys labelled)', '')
    """
    return f" (hpcseg keys {key})" if key in run_keys() else ""
