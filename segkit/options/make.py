"""Options from what a user gave: the values of a command line, or the keywords of a function."""

from __future__ import annotations

import dataclasses
import json
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any, TypeVar

from segkit.errors import UserError, nearest
from segkit.options.common import Common, duration

Options = TypeVar("Options", bound=Common)

OF_TERMINALS = ("verbose", "quiet", "json", "started")
"""Options that mean nothing to a function."""


def make_options(
    command: type[Options], given: Mapping[str, Any], *, started: float | None = None
) -> Options:
    """Check and convert the options of a command; the only reader of its variables.

    Args:
        command: Their class.
        given: Name -> value. Text is read as on the command line ("30m", a path); a
            number for a time is in seconds. None is as if it were not given. Where several values
            are allowed, one may stand alone, and a mapping stands for KEY=VALUE.
        started: Monotonic time at which the command began.

    Raises:
        UserError: no such option (with the nearest name), one that is missing, or a value of
            another type or out of its choices.
    """
    fields = {field.name: field for field in dataclasses.fields(command)}
    hints = typing.get_type_hints(command)
    where = f"options of {command.__name__}"
    for name in given:
        if name not in fields:
            raise UserError(f"unknown option {name!r}", where=where, fix=_likely(name, fields))
    values = {
        name: _convert(fields[name], hints[name], value, where)
        for name, value in given.items()
        if value is not None
    }
    for name, field in fields.items():
        if name not in values and _is_required(field):
            raise UserError(
                f"the option {name!r} is missing", where=where, fix=field.metadata["help"]
            )
    workdir = Path(os.environ.get("SEGKIT_WORKDIR") or command.workdir)
    workdir = values.setdefault("workdir", workdir)
    raw = [Path(os.environ["nnUNet_raw"])] if os.environ.get("nnUNet_raw") else []
    values.setdefault("raw_folders", (*raw, workdir / "raw"))
    return command(**{**values, "started": started})


def _likely(name: str, fields: Mapping[str, Field[Any]]) -> str:
    """Name the option that is meant: its flag may have another name."""
    flag = f"--{name.replace('_', '-')}"
    for field in fields.values():
        if flag in field.metadata.get("names", ()):
            return f"did you mean {field.name!r}?"
    shown = {field.name for field in fields.values() if field.metadata}
    return nearest(name, shown - set(OF_TERMINALS))


def _is_required(field: Field[Any]) -> bool:
    """Whether argparse would insist on it."""
    positional = field.metadata.get("names") == () and field.metadata.get("nargs") not in ("?", "*")
    return positional or field.metadata.get("required", False)


def _convert(field: Field[Any], hint: Any, value: Any, where: str) -> Any:
    from segkit.structs import convert  # help needs none of it

    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    several = next((kind for kind in (hint, *kinds) if typing.get_origin(kind) is tuple), None)
    if several is None:
        value = _convert_one(field, kinds[0], value, where)
    else:
        kind = typing.get_args(several)[0]
        value = tuple(_convert_one(field, kind, each, where) for each in _listed(value))
        count = field.metadata.get("nargs")
        if isinstance(count, int) and len(value) != count:
            what = f"{field.name} takes {count} values, got {len(value)}"
            raise UserError(what, where=where, fix=field.metadata["help"])
    return convert(hint, value, source=where, path=field.name)


def _listed(value: Any) -> Iterable[Any]:
    """List what stands for several values."""
    if isinstance(value, Mapping):
        return [f"{key}={json.dumps(each)}" for key, each in value.items()]
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable):
        return [value]
    return value


def _convert_one(field: Field[Any], kind: Any, value: Any, where: str) -> Any:
    """Read text as the command line does; what is no text keeps its type."""
    read = field.metadata.get("type")
    try:
        if kind is Path or read is Path:
            return Path(value)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if read is duration and isinstance(value, (int, float)):
            value = f"{value}s"
        if read is not None and (isinstance(value, str) or kind is str):
            value = read(str(value))
    except (TypeError, ValueError) as error:
        what = f"{value!r} cannot be {field.name}: {error}"
        raise UserError(what, where=where, fix=field.metadata.get("help")) from None
    choices = field.metadata.get("choices")
    if choices is not None and value not in choices:
        what = f"{value!r} is not allowed for {field.name}"
        raise UserError(what, where=where, fix=nearest(str(value), map(str, choices)))
    return value
