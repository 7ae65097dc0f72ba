"""What the settings of a recipe refuse."""

from __future__ import annotations


def check(condition: bool, message: str) -> None:
    """Refuse a value.

    Raises:
        ValueError: the condition does not hold.
    """
    if not condition:
        raise ValueError(message)
