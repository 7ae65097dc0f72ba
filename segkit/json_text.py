"""Strict JSON: what is refused is shown with its line, a caret and the mend."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import partial
from typing import Any

from segkit.errors import UserError

DEEPEST = 100
"""Most levels of nesting; what reads and writes the content again must not overflow the stack."""
LONGEST_NUMBER = 300
"""Most characters of a number."""
_MARGIN = 60
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"{}\[\]:,]+', re.DOTALL)
_SURROGATES = re.compile(
    r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


class _BadNumber(ValueError):
    """A number as Python reads it and JSON does not: the token and what is wrong with it."""


def parse_json(text: str, source: object, *, doubled: list[str] | None = None) -> Any:
    """Parse JSON.

    Args:
        text: What the file holds.
        source: Where it comes from, for the message.
        doubled: Filled with a line on every key that occurs more than once in an object; its
            last value is taken. None refuses such keys.

    Raises:
        UserError: not JSON, a number that is not finite, half a Unicode character, or nested
            deeper than any sensible file.
    """
    found: list[str] = []
    try:
        content = json.loads(
            text,
            object_pairs_hook=partial(_collect, found),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        fix = _remedy(text, error.pos, error.msg)
        raise _fault(text, error.pos, error.msg, fix, source) from None
    except _BadNumber as error:
        token, reason = error.args
        starts = (m.start() for m in _TOKEN.finditer(text) if m[0].startswith(token))
        start = next(starts, 0)
        raise _fault(text, start, reason, "write a finite number", source) from None
    except RecursionError:
        raise _too_deep(source) from None
    if _is_deeper(content, DEEPEST):
        raise _too_deep(source)
    if lone := next((m for m in _SURROGATES.finditer(text) if m["lone"]), None):
        reason = "half of a Unicode surrogate pair"
        raise _fault(text, lone.start(), reason, "write the character itself", source)
    if doubled is not None:
        doubled += found
    elif found:
        fix = "delete all but one of them"
        raise UserError(f"not valid JSON: {'; '.join(found)}", where=source, fix=fix)
    return content


def is_int(value: Any) -> bool:
    """Whether a JSON value is an integer (true and 1.0 are not)."""
    return type(value) is int


def shown(value: Any, limit: int = 120) -> str:
    """Return a value as JSON for a message, shortened in the middle where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= limit:
        return text
    return f"{text[: limit * 2 // 3]} ... {text[-limit // 4 :]}"


def _collect(found: list[str], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                values = " and ".join(shown(value, 40) for name, value in pairs if name == key)
                times = "twice" if count == 2 else f"{count} times"
                found.append(f"the key {key!r} occurs {times}, as {values}")
    return result


def _refuse_constant(name: str) -> None:
    raise _BadNumber(name, f"{name} is not a JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _BadNumber(text, "the number is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise _BadNumber(text, f"the number has {len(text)} digits")
    return int(text)


def _is_deeper(content: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels; no recursion."""
    layer = [content]
    for _ in range(levels + 1):
        layer = [
            child
            for item in layer
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(layer)


def _too_deep(source: object) -> UserError:
    what = f"not valid JSON: nested deeper than {DEEPEST} levels"
    return UserError(what, where=source, fix="close brackets that are left open")


def _fault(text: str, pos: int, reason: str, fix: str, source: object) -> UserError:
    """Show the line around a position, with a caret below it."""
    first = text.rfind("\n", 0, pos) + 1
    line = text[first:].split("\n", 1)[0]
    column = pos - first
    start = max(0, column - _MARGIN)
    # A tab is as wide as the editor likes; as one space it keeps the caret below the fault.
    part = "".join(c if c.isprintable() else " " for c in line[start : column + _MARGIN]).rstrip()
    number = text.count("\n", 0, pos) + 1
    what = f"not valid JSON, line {number} column {column + 1}: {reason}"
    return UserError(f"{what}\n{part}\n{' ' * (column - start)}^", where=source, fix=fix)


def _remedy(text: str, pos: int, reason: str) -> str:
    """Guess what was meant at the place where the parser gave up."""
    here, before, after = text[pos : pos + 1], text[:pos].rstrip()[-1:], text[pos + 1 :].lstrip()
    if not text.strip():
        return "the file is empty: write the JSON, or restore the file"
    if (here in ("}", "]") and before == ",") or (here == "," and after[:1] in ("}", "]")):
        return "delete the comma before the closing bracket"
    if not here:
        return "the text ends too early: close every quote and bracket, or restore the file"
    if here in _REMEDIES:
        return _REMEDIES[here]
    if word := re.match(r"[A-Za-z_]\w*", text[pos : pos + 100]):
        return _REMEDIES.get(word[0], f'put it in double quotes: "{word[0]}"')
    return next((fix for start, fix in _REMEDIES.items() if reason.startswith(start)), _ANY_REMEDY)


_ANY_REMEDY = "correct the JSON at the caret (commas, quotes, brackets)"
_NO_COMMENTS = "delete the comment; JSON has none"
_OPEN_QUOTE = 'close the quote in this line (a line break inside a text is "\\n")'
_REMEDIES = {
    "/": _NO_COMMENTS,
    "#": _NO_COMMENTS,
    "'": 'use double quotes: "..."',
    "True": "write true",
    "False": "write false",
    "None": "write null",
    "Unterminated string": _OPEN_QUOTE,
    "Invalid control character": _OPEN_QUOTE,
    "Expecting ':'": "put a colon before it",
    "Expecting ','": "put a comma before it, or the closing bracket that is missing",
}
"""What is at the fault, or what the parser calls it -> how to mend it."""
