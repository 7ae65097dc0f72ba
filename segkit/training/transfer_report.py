"""Says what of another network was taken over, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from segkit.dataset.labels import LabelSchema
from segkit.errors import listing
from segkit.training.transfer import OUTPUTS, Fate

MOST_REMARKS = 2
"""Remarks a line of the table has room for."""


def summary(fates: Sequence[Fate]) -> str:
    """Count the tensors taken over."""
    adapted = sum(fate.became == "adapted" for fate in fates)
    taken = adapted + sum(fate.became == "loaded" for fate in fates)
    more = f", {adapted} of them made to fit" if adapted else ""
    return f"{taken} of {len(fates)} tensors are taken over{more} (pretrained.json lists them)"


def table(fates: Sequence[Fate]) -> str:
    """One line a part of the network, with the number of tensors and what was done to them."""
    groups = list(dict.fromkeys(fate.group for fate in fates))
    width = max(map(len, groups))
    lines = [f"  {'':{width}}  loaded  adapted  fresh"]
    for group in sorted(groups, key=_order):
        own = [fate for fate in fates if fate.group == group]
        counts = [
            sum(fate.became == kind for fate in own) for kind in ("loaded", "adapted", "fresh")
        ]
        loaded, adapted, fresh = (str(count or "-") for count in counts)
        line = f"  {group:{width}}  {loaded:>6}  {adapted:>7}  {fresh:>5}  {_remarks(own)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _order(group: str) -> tuple[bool, bool, str]:
    """Encoder, decoder, output layers; otherwise as they come."""
    return group == OUTPUTS, group.startswith("decoder stage"), ""


def _remarks(fates: Sequence[Fate]) -> str:
    """What was done, then why something is fresh; each once."""
    adapted = [fate.how for fate in fates if fate.became == "adapted"]
    fresh = [fate.how for fate in fates if fate.became == "fresh"]
    return listing(list(dict.fromkeys([*adapted, *fresh])), MOST_REMARKS)


def describe_outputs(
    old: LabelSchema, new: LabelSchema, outputs: Mapping[int, int], fates: Sequence[Fate]
) -> str:
    """Say which outputs go on from what was learnt.

    Args:
        old: Labels of the old network.
        new: Labels of the new one.
        outputs: New output channel -> old one of the same name.
        fates: What became of all tensors.
    """
    before, now = old.output_names, new.output_names
    layers = [fate for fate in fates if fate.group == OUTPUTS and fate.tensor.endswith("weight")]
    if not layers:
        return _describe_unknown_outputs(before, now, fates)
    if old.sigmoid != new.sigmoid:
        kinds = {True: "sigmoid outputs", False: "a softmax"}
        why = f"the pretrained model has {kinds[old.sigmoid]}, this one {kinds[new.sigmoid]}"
        return f"the output layers start fresh: {why}"
    if not outputs:
        why = f"the pretrained model predicts {listing(before)}, this one {listing(now)}"
        return f"the output layers start fresh: {why}"
    taken = sum(fate.became != "fresh" for fate in layers)
    if not taken:
        return "the output layers start fresh: those of the pretrained model have other widths"
    where = f" at {taken} of {len(layers)} scales" if taken < len(layers) else ""
    return f"outputs taken over by name{where}: {_named(before, now, outputs)}"


def _named(before: Sequence[str], now: Sequence[str], outputs: Mapping[int, int]) -> str:
    text = listing([now[i] for i in outputs])
    if fresh := [name for i, name in enumerate(now) if i not in outputs]:
        text += f"; starting fresh: {listing(fresh)}"
    if dropped := [name for name in before if name not in now]:
        text += f"; without a place here: {listing(dropped)}"
    return text


def _describe_unknown_outputs(
    before: Sequence[str], now: Sequence[str], fates: Sequence[Fate]
) -> str:
    """Of a network that is a class, output layers are known by their number of channels alone."""
    if len(before) != len(now):
        by_name = any("outputs by name" in fate.how for fate in fates)
        return f"output layers: {'outputs go by name' if by_name else 'they start fresh'}"
    if list(before) == list(now):
        return "output layers: taken over as they are"
    names = f"the pretrained model predicts {listing(before)}, this one {listing(now)}"
    return f"output layers: outputs go by their place, and {names}"


def describe_inputs(old: Sequence[str], new: Sequence[str], mixing: Tensor) -> list[str]:
    """Say what each input channel begins with; nothing where all are as they were."""
    if list(old) == list(new):
        return []
    words = [_input(name, old, row) for name, row in zip(new, mixing.tolist(), strict=True)]
    text = f"input channels: {listing(words, 8)}"
    lost = [name for name, shares in zip(old, mixing.T.tolist(), strict=True) if not any(shares)]
    return [text + (f"; without a place here: {listing(lost)}" if lost else "")]


def _input(name: str, old: Sequence[str], shares: Sequence[float]) -> str:
    given = [(before, share) for before, share in zip(old, shares, strict=True) if share]
    if not given:
        return f"{name} begins at 0"
    if [before.strip().casefold() for before, _ in given] == [name.strip().casefold()]:
        return f"{name} as it was" if given[0][1] == 1 else f"{name} shares {given[0][0]}"
    places = listing([before for before, _ in given])
    whole = all(share == 1 for _, share in given)
    return f"{name} {'takes the place of' if whole else 'shares'} {places}"


def describe_labels(old: LabelSchema, new: LabelSchema) -> list[str]:
    """Say why an ignore label on one side alone does not matter."""
    before, now = old.ignore_values, new.ignore_values
    if bool(before) == bool(now):
        return []
    both = f"the pretrained model had {_ignore(before)}, this data set has {_ignore(now)}"
    return [f"{both}: no matter, ignored voxels never have an output channel"]


def _ignore(values: tuple[int, ...]) -> str:
    return f"an ignore label (value {', '.join(map(str, values))})" if values else "none"
