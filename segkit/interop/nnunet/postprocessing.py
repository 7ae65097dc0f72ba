"""What nnU-Net found worth doing to label maps after a cross-validation: its postprocessing.json.

The pickle beside it holds functions, and is never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.evaluation.postprocessing import Rule
from segkit.files import read_text
from segkit.json_text import is_int

FILE = "postprocessing.json"
_KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"


def find_postprocessing(trained: Path) -> Path | None:
    """Return the rules of the cross-validation over most folds; None where there are none."""
    found = sorted(trained.glob(f"crossval_results_folds_*/{FILE}"))
    return max(found, key=lambda path: (len(path.parent.name), path.parent.name), default=None)


def read_rules(path: Path, schema: LabelSchema) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Read the rules.

    Args:
        path: nnU-Net's postprocessing.json. The scores in it may be NaN, and do not matter.
        schema: Of the model.

    Returns:
        The rules, and a sentence for each that segkit would follow otherwise.

    Raises:
        UserError: not JSON, or other rules than nnU-Net's own.
    """
    try:
        content = json.loads(read_text(path), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path, fix=_FIX) from None
    rules, left_out = [], []
    for values in _steps(content, path):
        target = _target(values, schema)
        if target == _NOWHERE:
            left_out.append(
                f"keeping the largest component of {sorted(values)}: what goes would become "
                "background in nnU-Net, and the region around it here"
            )
        else:
            rules.append(Rule(operation="keep_largest", target=target))
    return tuple(rules), tuple(left_out)


_FIX = "restore the file, or take it away: nnU-Net predicts without it"
_NOWHERE = ""
"""In place of a target, where no target is meant."""


def _steps(content: Any, path: Path) -> Iterator[frozenset[int]]:
    """Yield the values whose largest component is kept, for every step."""
    names = content.get("postprocessing_fns") if isinstance(content, Mapping) else None
    arguments = content.get("postprocessing_kwargs") if isinstance(content, Mapping) else None
    if not isinstance(names, list) or not isinstance(arguments, list):
        raise UserError("no postprocessing_fns and _kwargs in there", where=path, fix=_FIX)
    if len(names) != len(arguments):
        what = f"{len(names)} postprocessing_fns with {len(arguments)} postprocessing_kwargs"
        raise UserError(what, where=path, fix=_FIX)
    for name, given in zip(names, arguments, strict=True):
        known = isinstance(given, Mapping) and given.keys() == {"labels_or_regions"}
        values = frozenset(_values(given["labels_or_regions"])) if known else frozenset()
        if name != _KEEP_LARGEST or not values:
            what = f"the post-processing {name!r} with {given!r} is not known here"
            raise UserError(what, where=path, fix=_FIX)
        yield values


def _values(given: Any) -> Iterator[int]:
    """Flatten labels and regions: nnU-Net takes all of them together."""
    if is_int(given):
        yield given
    elif isinstance(given, list):
        for each in given:
            yield from _values(each)


def _target(values: frozenset[int], schema: LabelSchema) -> str | None:
    """Return what is meant by label values: None for all foreground, ``_NOWHERE`` for nothing.

    A region counts where no other is around it.
    """
    classes = {one.value for one in schema.classes}
    if values == classes:
        return None
    if not schema.has_regions:
        return next((c.name for c in schema.classes if {c.value} == values), _NOWHERE)
    regions = {frozenset(region.members): region.name for region in schema.regions}
    outermost = not any(values < other for other in regions)
    return regions.get(values, _NOWHERE) if outermost else _NOWHERE
