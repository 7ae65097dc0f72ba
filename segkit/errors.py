"""The one error a user ever sees, a guess at what they meant, and lists that stay short."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """The user's data, files or settings are at fault: what, where, and how to mend it.

    Args:
        what: One sentence naming the fault, with the offending value.
        where: File, key or case the fault sits in.
        fix: What the user can do about it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.where is not None:
            lines.append(f"where: {self.where}")
        if self.fix is not None:
            lines.append(f"fix:   {self.fix}")
        return "\n".join(lines)

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip back from a worker process with all three parts."""
        return _rebuild, (type(self), self.what, self.where, self.fix)


class UsageError(UserError):
    """The command was called wrongly: options that contradict each other or are missing."""

    exit_code = 2


def _rebuild(cls: type[UserError], what: str, where: object, fix: str | None) -> UserError:
    return cls(what, where=where, fix=fix)


def listing(names: Sequence[str], most: int = 4) -> str:
    """List the first names and count the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest choice, else a list of all choices."""
    choices = sorted(choices)
    match = closest(name, choices)
    return f"valid names: {', '.join(choices)}" if match is None else f"did you mean {match!r}?"


def closest(name: str, choices: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the choice most like a name, capitals aside; None where none is so much alike."""
    names = {choice.casefold(): choice for choice in choices}
    match = difflib.get_close_matches(str(name).casefold(), names, n=1, cutoff=likeness)
    return names[match[0]] if match else None
