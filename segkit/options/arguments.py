"""Options back to the command line that gives them, to run a command in a process of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from segkit.options.common import Common, duration


def to_arguments(options: Common) -> list[str]:
    """Return the arguments, without the command's name, that are parsed to these options.

    Options that have their default are left out, but for the work folder, which the environment
    may name.
    """
    positional, named = [], []
    for field in dataclasses.fields(options):
        names, value = field.metadata.get("names"), getattr(options, field.name)
        if names == ():
            positional += _texts(value, field.metadata)
        elif names and (value != field.default or field.name == "workdir"):
            # A flag without a value is there or not.
            named += [names[-1], *([] if value is True else _texts(value, field.metadata))]
    return [*positional, *named]


def _texts(value: Any, metadata: Any) -> list[str]:
    if isinstance(value, tuple):
        return [text for each in value for text in _texts(each, metadata)]
    return [f"{value}s" if metadata.get("type") is duration else str(value)]
