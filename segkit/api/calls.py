"""How a function calls a command: its options checked, and its result in place of its text."""

from __future__ import annotations

import time
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from segkit import options as opt
from segkit.errors import UserError
from segkit.options.make import OF_TERMINALS

if TYPE_CHECKING:
    from segkit.workflows.common import Outcome

AnyPath: TypeAlias = str | PathLike[str]
Options = TypeVar("Options", bound=opt.Common)
R = TypeVar("R")


def options_of(command: type[Options], **given: Any) -> Options:
    """Make the options of a command of keywords, as the command line does.

    Raises:
        UserError: an unknown option, one that is missing, or a value that it cannot have.
    """
    for name in OF_TERMINALS:
        if name in given:
            what = f"the option {name!r} is for the command line only"
            fix = "leave it out; logging.basicConfig(level=logging.INFO) shows what is done"
            raise UserError(what, where=f"options of {command.__name__}", fix=fix)
    return opt.make_options(command, given, started=time.monotonic())


def result_of(outcome: Outcome[R]) -> R:
    """Return what a command made.

    Raises:
        UserError: the command found problems.
    """
    if not outcome.ok:
        raise UserError(outcome.text, fix="mend these problems")
    assert outcome.result is not None
    return outcome.result
