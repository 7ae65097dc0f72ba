"""Values found in other people's masks (numbers, or colours) and the labels they become."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from segkit.dataset.image_io import ending_of, read_labels, read_masks
from segkit.dataset.image_io.formats import PLANES
from segkit.errors import UserError, listing
from segkit.types import Geometry

MOST_VALUES = 256
"""More different values are no labels: a photograph, or colours that were compressed."""
_COLOUR = 1 << 32
"""Added to colours that are not grey, to tell them from numbers; a grey is its number."""


def read_values(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a mask: (Z, Y, X) integers, numbers and greys as they are, colours with their offset.

    Raises:
        UserError: unreadable, or it holds fractions.
    """
    if ending_of(path) in PLANES:
        volume = read_masks(path)
        channels = volume.array[: 3 if len(volume.array) >= 3 else 1].astype(np.int64)
        if len(channels) == 1:
            return channels[0], volume.geometry
        grey = (channels[1:] == channels[:1]).all(0)
        red, green, blue = channels
        colour = _COLOUR + (red << 16) + (green << 8) + blue
        return np.where(grey, red, colour), volume.geometry
    volume = read_labels(path)
    values = volume.array[0]
    whole = np.rint(values).astype(np.int64)
    if not np.array_equal(whole, values):
        what = "the mask holds fractions"
        raise UserError(what, where=path, fix="store whole numbers, one a label")
    return whole, volume.geometry


def values_in(path: Path) -> list[int]:
    """List the values of a mask.

    Raises:
        UserError: so many that they cannot be labels.
    """
    found = np.unique(read_values(path)[0]).tolist()
    if len(found) > MOST_VALUES:
        what = f"the mask holds {len(found)} different values, which cannot be labels"
        fix = "is it compressed or smoothed (JPEG)? Export it without, as PNG"
        raise UserError(what, where=path, fix=fix)
    return found


def value_text(value: int) -> str:
    """Write a value as the user does: a number, or ``#RRGGBB``."""
    return f"#{value - _COLOUR:06x}" if value >= _COLOUR else str(value)


def parse_value(text: str) -> int:
    """Read a number, ``#RRGGBB`` or ``R,G,B``.

    Raises:
        UserError: anything else.
    """
    colour: list[int] = []
    if match := re.fullmatch(r"#([0-9a-fA-F]{6})", text):
        colour = list(bytes.fromhex(match[1]))
    elif match := re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", text):
        colour = [*map(int, match.groups())]
    if colour and max(colour) < 256:
        red, green, blue = colour
        return red if red == green == blue else _COLOUR + (red << 16) + (green << 8) + blue
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    fix = "write a number, a colour as #ff0000, or 255,0,0"
    raise UserError(f"{text!r} is no value of a label", where="--labels", fix=fix)


def parse_labels(settings: Sequence[str]) -> dict[str, int]:
    """Read ``name=value`` settings.

    Raises:
        UserError: not of that form, or a name or value twice.
    """
    labels: dict[str, int] = {}
    for setting in settings:
        name, equals, text = setting.rpartition("=")
        if not equals or not name:
            fix = "write for example background=0 tumour=#ff0000"
            raise UserError(f"expected name=value, got {setting!r}", where="--labels", fix=fix)
        value = parse_value(text)
        if name in labels or value in labels.values():
            what = f"{setting!r} names a label or a value a second time"
            raise UserError(what, where="--labels", fix="give each once")
        labels[name] = value
    return labels


def name_values(found: Mapping[Path, Iterable[int]], given: Mapping[str, int]) -> dict[str, int]:
    """Name all values that occur, the background first: name -> value.

    Args:
        found: Mask -> its values.
        given: What the user declared, which then must name them all; else names are made up.

    Raises:
        UserError: values that the user did not declare; or no background among them.
    """
    values = sorted({value for some in found.values() for value in some})
    if given:
        unknown = [value for value in values if value not in given.values()]
        if unknown:
            files = [path for path, some in found.items() if set(some) & set(unknown)]
            what = f"values that --labels does not name: {listing([*map(value_text, unknown)])}"
            fix = f"name them; {len(files)} files hold them"
            raise UserError(what, where=files[0], fix=fix)
        background = given.get("background", next(iter(given.values())))
        others = {name: value for name, value in given.items() if value != background}
        return {"background": background, **others}
    if 0 not in values:
        what = f"no mask has 0 or black; values are {listing([*map(value_text, values)])}"
        fix = "say which is the background: --labels background=VALUE name=VALUE ..."
        raise UserError(what, where="--labels", fix=fix)
    rest = [value for value in values if value]
    return {"background": 0, **{_made_up_name(v, len(rest)): v for v in rest}}


def _made_up_name(value: int, count: int) -> str:
    if count == 1:
        return "foreground"
    return f"colour_{value - _COLOUR:06x}" if value >= _COLOUR else f"label_{value}"


@lru_cache(maxsize=4)
def _table(values: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(values)
    return np.asarray(values)[order], order


def as_labels(values: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Turn values into 0, 1, 2, ..., their places in ``order``, which holds them all."""
    known, places = _table(order)
    return places[np.searchsorted(known, values)].astype(np.uint16)
