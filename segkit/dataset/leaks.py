"""Cases of which a fold trains on one and validates on another, though they are of one thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segkit.dataset.splits import Split

_LISTED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Leak:
    """Two cases on the two sides of a fold."""

    train: str
    val: str
    why: str
    """What they share."""

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.train} (train) and {self.val} (validation): {self.why}"


def find_leaks(
    split: Split, groups: Mapping[str, Sequence[str]], same: Sequence[Sequence[str]]
) -> list[Leak]:
    """Return the pairs of cases on both sides of a fold that share a group or an image.

    Args:
        split: Of the fold. One that validates on all it trains on (``all``, or a single case) does
            so on purpose.
        groups: Group -> its cases.
        same: Sets of cases with the same image.

    Returns:
        Each pair once, those of the same image first.
    """
    train, val = set(split.train), set(split.val)
    if train == val:
        return []
    sets = [("the same image", cases) for cases in same]
    sets += [(f"both of {name}", cases) for name, cases in groups.items()]
    found: dict[tuple[str, str], Leak] = {}
    for why, cases in sets:
        pairs = ((a, b) for b in cases if b in val for a in cases if a in train and a != b)
        for a, b in pairs:
            found.setdefault((a, b), Leak(train=a, val=b, why=why))
    return list(found.values())


def describe_leaks(leaks: Mapping[str, Sequence[Leak]]) -> str:
    """Say of every fold that leaks which pairs do; at most a few are listed of each."""
    lines = []
    for fold, pairs in leaks.items():
        lines.append(f"fold {fold} is validated on what it is trained on, {len(pairs)} pair(s):")
        lines += [f"  {pair}" for pair in pairs[:_LISTED]]
        lines += [f"  and {len(pairs) - _LISTED} more"] * (len(pairs) > _LISTED)
    return "\n".join(lines)
