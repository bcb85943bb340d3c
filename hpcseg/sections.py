"""How a configuration key is declared: its default, what it is, its unit, and where it comes from, beside each other.

`hpcseg keys` and docs/keys.md show what is written here and nowhere else. A section of a strategy that another package
brings is declared in the same way.

    class PatchesConfig(Section):
        size: Annotated[int, Field(ge=4)] = key(72, "edge of a target patch", unit="voxels", source="paper 3.2.3")
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError
from pydantic_core.core_schema import no_info_after_validator_function

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

T = TypeVar("T")
_NAMES = {bool: "true or false", int: "integer", float: "number", str: "text", dict: "table"}


class Closed(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Section(Closed):
    """A group of keys of a file that people write."""

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where numbers are asked for, which would be taken for 1 and 0, and what is not finite,
        of which no identity can be made."""
        if isinstance(value, bool | list) and _any(value, lambda one: isinstance(one, bool)):
            wanted = _leaves(cls, str(info.field_name))
            if bool not in wanted and wanted & {int, float}:
                raise PydanticKnownError("int_type" if int in wanted else "float_type")
        if isinstance(value, float | list) and _any(
            value, lambda one: isinstance(one, float) and not math.isfinite(one)
        ):
            raise PydanticKnownError("finite_number")
        return value


@overload
def key(default: EllipsisType, description: str, *, unit: str = "", source: str) -> Any: ...
@overload
def key(default: T, description: str, *, unit: str = "", source: str) -> T: ...
def key(default: Any, description: str, *, unit: str = "", source: str) -> Any:
    """A key of a section, explained.

    Args:
        default: its value where nothing sets it; one that can be changed (a dict) is copied. `...`: it has to be set.
        description: what it is, and what its values do, in a line or two.
        unit: of its number or numbers; "": it has none.
        source: the section of the paper ("paper 3.1.1"), or "ours: " and why we chose so where the paper is silent.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit, "source": source})


@dataclass(frozen=True)
class OneOf:
    """Beside `str` in `Annotated`: a name out of those that are there when a value is read."""

    names: Callable[[], Sequence[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, name: str) -> str:
        known = self.names()
        if name not in known:
            *first, last = map(repr, known)
            meant = next(iter(difflib.get_close_matches(name, known, n=1)), "")
            near = f"; did you mean '{meant}'?" if meant else ""
            raise PydanticCustomError("unknown_name", f"Input should be {', '.join(first)} or {last}{near}")
        return name


@dataclass(frozen=True)
class Key:
    """A key as it is shown.

    Attributes:
        name: dotted, from the top of its file.
        annotation: its type, with the bounds of its values.
        default: `...` where it has to be set, None where the description says what stands for it.
        unit: "" without one.
    """

    name: str
    annotation: Any
    default: Any
    unit: str
    source: str
    description: str

    @property
    def kind(self) -> str:
        """Its type in words, choices spelled out: `"best" or "last"`, `integer ≥ 1`, `[number, number]`."""
        return spelled(self.annotation)

    @property
    def holds_list(self) -> bool:
        """Whether a list can be a value of it."""
        return _holds_list(self.annotation)


@dataclass(frozen=True)
class Group:
    """The keys that stand side by side in one section; `about` is what its class says of itself."""

    name: str
    about: str
    keys: tuple[Key, ...]


def groups_of(model: type[BaseModel], name: str = "", defaults: BaseModel | None = None) -> Iterator[Group]:
    """The keys of a model, then those of each section in it.

    Args:
        model: whose keys.
        name: of the section that the model is; "": the top of a file.
        defaults: a model whose values are the defaults, where they are not the keys' own.
    """
    prefix = f"{name}." if name else ""
    keys: list[Key] = []
    inner: list[Group] = []
    for field_name, field in model.model_fields.items():
        default: Any = ... if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(defaults, field_name, default)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner += groups_of(kind, f"{prefix}{field_name}", default)
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        keys.append(
            Key(
                f"{prefix}{field_name}",
                Annotated[kind, *field.metadata] if field.metadata else kind,
                default,
                str(extra.get("unit", "")),
                str(extra.get("source", "")),
                field.description or "",
            )
        )
    if keys:
        yield Group(name, inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].replace("\n", " "), tuple(keys))
    yield from inner


def keys_of(model: type[BaseModel], name: str = "") -> Iterator[Key]:
    """Every key of a model and of the sections in it."""
    for group in groups_of(model, name):
        yield from group.keys


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one with dotted keys.

    >>> flatten({"fold": 0, "training": {"epochs": 2}})
    {'fold': 0, 'training.epochs': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        dotted = f"{prefix}{name}"
        flat |= flatten(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return flat


def toml_text(value: Any) -> str:
    """A default as TOML writes it.

    >>> toml_text((0.5, 99.5)), toml_text(True), toml_text("median")
    ('[0.5, 99.5]', 'true', '"median"')
    """
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_text, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def spelled(annotation: Any) -> str:
    """A type in words.

    >>> spelled(Literal["auto"] | Annotated[float, Field(gt=0)])
    '"auto" or number > 0'
    >>> spelled(tuple[int, ...])
    '[integer, …]'
    >>> spelled(Fraction)
    '0 ≤ number ≤ 1'
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        for mark in parts[1:]:
            if isinstance(mark, OneOf):
                return " or ".join(map(toml_text, mark.names()))
        return _bounded(spelled(parts[0]), dict(_bounds(parts[1:])))
    if origin is Literal:
        return " or ".join(toml_text(value) for value in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(spelled(part) for part in parts if part is not types.NoneType))
    if origin is tuple:
        return f"[{', '.join('…' if part is ... else spelled(part) for part in parts)}]"
    return _NAMES.get(origin or annotation, str(annotation))


def _bounds(metadata: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Name (ge, gt, le, lt) and value of each bound in what stands beside a type in `Annotated`."""
    for mark in metadata:
        yield from _bounds(tuple(getattr(mark, "metadata", ())))
        yield from ((name, getattr(mark, name)) for name in ("ge", "gt", "le", "lt") if hasattr(mark, name))


def _bounded(word: str, bounds: dict[str, Any]) -> str:
    """`number > 0`, `0 ≤ number < 1`."""
    high = "".join(f" {sign} {bounds[name]:g}" for name, sign in (("le", "≤"), ("lt", "<")) if name in bounds)
    for name, before, behind in (("ge", "≤", "≥"), ("gt", "<", ">")):
        if name in bounds:
            return f"{bounds[name]:g} {before} {word}{high}" if high else f"{word} {behind} {bounds[name]:g}"
    return word + high


def _any(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether something holds of a value, or of one in its lists."""
    return any(_any(one, holds) for one in value) if isinstance(value, list) else holds(value)


@functools.cache
def _leaves(section: type[BaseModel], name: str) -> frozenset[Any]:
    """The plain types that a key's type is made of."""
    return frozenset(_parts(section.model_fields[name].annotation))


def _parts(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is not Literal:
        inner = typing.get_args(annotation)
        yield from (one for part in inner for one in _parts(part)) if inner else (annotation,)


@functools.cache
def _holds_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple or any(map(_holds_list, typing.get_args(annotation)))
