"""Names of the colours in a picture of labels."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

from segkit.report.label_picture import Colour

MOST_NAMES = 30
"""Names that a legend has room for."""


def legend_handles(
    named: Sequence[tuple[str, Colour]], marks: Sequence[tuple[str, Colour]]
) -> list[Patch]:
    """Return one patch a name: of very many classes the first ones and how many more there are.

    Args:
        named: Classes, regions or structures that the picture shows.
        marks: What it shows besides, such as ignored voxels; never left out.
    """
    handles = [Patch(color=colour, label=name) for name, colour in named[:MOST_NAMES]]
    if len(named) > MOST_NAMES:
        handles.append(Patch(color="none", label=f"and {len(named) - MOST_NAMES} more"))
    return [*handles, *(Patch(color=colour, label=name) for name, colour in marks)]
