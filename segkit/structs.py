"""Frozen dataclasses to and from plain mappings, with every mistake named.

One function builds any dataclass of the project (recipe, plan, fingerprint, records) from what
JSON or YAML gave; unknown keys are refused with the nearest valid name, types are checked.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from segkit.errors import UserError, nearest
from segkit.files import HEADER_KEYS, read_artifact

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Any, *, source: object, path: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping.

    Args:
        cls: A dataclass whose fields are scalars, tuples, dicts, optionals or dataclasses.
        mapping: What was read.
        source: File or flag it was read from, for the message.
        path: Key of the mapping inside the source, for the message.

    Raises:
        UserError: unknown or missing key, or a value of the wrong type or range.
    """
    where = f"{source}{f', key {path}' if path else ''}"
    if not isinstance(mapping, Mapping):
        raise UserError(f"expected keys and values, got {mapping!r}", where=where)
    hints = _hints(cast(Any, cls))
    for key in mapping:
        if key not in hints:
            raise UserError(f"unknown key {key!r}", where=where, fix=nearest(key, hints))
    missing = _required(cast(Any, cls)) - mapping.keys()
    if missing:
        raise UserError(f"missing key {sorted(missing)[0]!r}", where=where, fix="add it")
    names = _names(cast(Any, cls))
    values = {
        names[key]: convert(hints[key], value, source=source, path=f"{path}.{key}".lstrip("."))
        for key, value in mapping.items()
    }
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(str(error), where=where, fix="correct the value") from None


def read_struct(cls: type[T], path: Path, *, version: int) -> T:
    """Read a JSON artefact into the dataclass it was written from.

    Raises:
        UserError: not readable, of another version, or with unknown or wrong keys.
    """
    content = read_artifact(path, version=version)
    own = {key: value for key, value in content.items() if key not in HEADER_KEYS}
    return from_mapping(cls, own, source=path)


def to_mapping(instance: Any, *, sparse: bool = False) -> Any:
    """Turn a dataclass into dicts, lists and scalars that JSON and YAML can hold.

    Args:
        instance: A dataclass, or what its fields may hold.
        sparse: Leave out fields that have their default value: a hash of the rest stays what it
            was when a later version adds a field.
    """
    if dataclasses.is_dataclass(instance):
        fields = dataclasses.fields(instance)
        return {
            key_of(field): to_mapping(getattr(instance, field.name), sparse=sparse)
            for field in fields
            if not sparse or _is_set(field, instance)
        }
    if isinstance(instance, Mapping):
        return {str(key): to_mapping(value, sparse=sparse) for key, value in instance.items()}
    if isinstance(instance, (list, tuple)):
        return [to_mapping(value, sparse=sparse) for value in instance]
    return instance


def _is_set(field: dataclasses.Field, instance: Any) -> bool:
    """Whether a field has another value than its default."""
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return bool(getattr(instance, field.name) != default)


def differing_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two mappings as :func:`to_mapping` makes them."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [prefix]
    return [
        key
        for name in {**before, **now}
        for key in differing_keys(before.get(name), now.get(name), f"{prefix}.{name}".lstrip("."))
    ]


def convert(hint: Any, value: Any, *, source: object, path: str) -> Any:
    """Check ``value`` against a type hint and return it as that type.

    Raises:
        UserError: it is not of that type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, source=source, path=path)
    if origin is typing.Literal:
        if isinstance(value, bool):
            # YAML reads the words on and off as these.
            value = "on" if value else "off"
        if value in arguments:
            return value
        fix = nearest(value, map(str, arguments))
        raise UserError(f"{value!r} is not allowed", where=f"{source}, key {path}", fix=fix)
    if dataclasses.is_dataclass(hint):
        return from_mapping(cast(type, hint), value, source=source, path=path)
    if origin is tuple:
        return _convert_tuple(arguments, value, source=source, path=path)
    if origin in (dict, Mapping):
        return _convert_dict(arguments, value, source=source, path=path)
    return _convert_scalar(hint, value, source=source, path=path)


def _convert_union(choices: tuple[Any, ...], value: Any, *, source: object, path: str) -> Any:
    if value is None and type(None) in choices:
        return None
    failures: list[UserError] = []
    for choice in (c for c in choices if c is not type(None)):
        try:
            return convert(choice, value, source=source, path=path)
        except UserError as error:
            failures.append(error)
    # The choice that was meant is the one that got furthest into the value.
    first, furthest = failures[0], max(failures, key=lambda error: len(str(error.where)))
    if len(failures) == 1 or furthest.where != first.where:
        raise furthest
    expected = " or ".join(_describe(choice) for choice in choices if choice is not type(None))
    raise UserError(f"expected {expected}, got {value!r}", where=first.where)


def _describe(hint: Any) -> str:
    """Name a type as users know it."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin is tuple:
        return "a list"
    return "keys and values" if origin in (dict, Mapping) else str(hint.__name__)


def _convert_tuple(items: tuple[Any, ...], value: Any, *, source: object, path: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"expected a list, got {value!r}", where=f"{source}, key {path}")
    if items[-1] is not Ellipsis and len(items) != len(value):
        what = f"expected {len(items)} values, got {len(value)}"
        raise UserError(what, where=f"{source}, key {path}")
    hints = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    return tuple(
        convert(hint, item, source=source, path=f"{path}[{i}]")
        for i, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _convert_dict(items: tuple[Any, ...], value: Any, *, source: object, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"expected keys and values, got {value!r}", where=f"{source}, key {path}")
    return {
        convert(items[0], k, source=source, path=f"{path}.{k}"): convert(
            items[1], v, source=source, path=f"{path}.{k}"
        )
        for k, v in value.items()
    }


def _convert_scalar(hint: Any, value: Any, *, source: object, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads "1e-3" as text.
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    what = f"expected {hint.__name__}, got {value!r}"
    raise UserError(
        what, where=f"{source}, key {path}", fix=f"give a value of type {hint.__name__}"
    )


@cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {key_of(field): hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _names(cls: Any) -> dict[str, str]:
    return {key_of(field): field.name for field in dataclasses.fields(cls)}


def key_of(field: dataclasses.Field[Any]) -> str:
    """Return the key of a field: its name, but for one that Python keeps for itself ("class")."""
    return str(field.metadata.get("key", field.name))


@cache
def _required(cls: Any) -> frozenset[str]:
    none = dataclasses.MISSING
    return frozenset(
        key_of(field)
        for field in dataclasses.fields(cls)
        if field.default is none and field.default_factory is none
    )
