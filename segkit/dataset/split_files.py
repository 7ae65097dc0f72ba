"""Files of folds: ``splits.json`` of a workspace, and nnU-Net's ``splits_final.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.description import DatasetDescription
from segkit.dataset.problems import Problem, problem, raise_errors
from segkit.dataset.splits import Folds, Split, SplitRequest
from segkit.errors import UserError, listing
from segkit.files import read_artifact, read_json, write_artifact
from segkit.json_text import shown
from segkit.structs import convert, from_mapping, to_mapping

SPLITS_VERSION = 1
_PARTS = ("train", "val")
_NEW_SPLITS = "delete the file to have new splits made, or correct it"


def given_splits(description: DatasetDescription) -> Path:
    """Where a user of nnU-Net puts splits made by hand."""
    return description.folder / "splits_final.json"


def save_folds(path: Path, folds: Folds) -> None:
    """Write ``splits.json``: the folds, and how they were made."""
    content = {
        "folds": [{"train": list(split.train), "val": list(split.val)} for split in folds.splits],
        "request": to_mapping(folds.request),
        "groups": to_mapping(folds.groups),
    }
    write_artifact(path, content, version=SPLITS_VERSION, made_from=folds.made_from)


def load_folds(path: Path, case_ids: Sequence[str] | None) -> Folds:
    """Read ``splits.json``.

    Args:
        path: The file.
        case_ids: Today's training cases, which the folds are checked against; None: they are not.

    Raises:
        UserError: as for :func:`load_splits`, or a part of it is malformed.
    """
    content = read_artifact(path, version=SPLITS_VERSION)
    folds = _read_folds(path)
    known = {case for fold in folds for case in _cases(fold)} if case_ids is None else case_ids
    problems = _check_folds(folds, set(known), path)
    told = [found for found in problems if case_ids is not None or found.severity == "error"]
    raise_errors(told, where=path)
    request = from_mapping(SplitRequest, content.get("request", {}), source=path, path="request")
    groups = content.get("groups", {})
    hint = dict[str, tuple[str, ...]]
    return Folds(
        splits=_splits_of(folds),
        request=request,
        groups=convert(hint, groups, source=path, path="groups"),
        made_from=content["made_from"],
    )


def load_splits(path: Path, case_ids: Sequence[str]) -> tuple[Split, ...]:
    """Read nnU-Net's ``splits_final.json`` (a bare list), or the folds of ``splits.json``.

    Raises:
        UserError: one block with everything malformed, unknown cases and cases in both parts of
            a fold. Cases in no fold are a warning.
    """
    folds = _read_folds(path)
    raise_errors(_check_folds(folds, set(case_ids), path), where=path)
    return _splits_of(folds)


def _splits_of(folds: Sequence[Any]) -> tuple[Split, ...]:
    parts = [[tuple(sorted(set(fold[key]))) for key in _PARTS] for fold in folds]
    return tuple(Split(train=train, val=val) for train, val in parts)


def check_splits(path: Path, case_ids: Collection[str]) -> list[Problem]:
    """Return all that :func:`load_splits` would refuse or warn about."""
    try:
        folds = _read_folds(path)
    except UserError as error:
        fix = error.fix or _NEW_SPLITS
        return [problem("SK-F029", error.what, where=path, fix=fix)]
    return _check_folds(folds, set(case_ids), path)


def _read_folds(path: Path) -> list[Any]:
    """Return the folds as they are written, unchecked."""
    content = read_json(path)
    own = isinstance(content, dict)
    folds = read_artifact(path, version=SPLITS_VERSION).get("folds") if own else content
    if not isinstance(folds, list) or not folds:
        fix = 'write [{"train": [ids], "val": [ids]}, ...]'
        raise UserError("expected a list of folds", where=path, fix=fix)
    return folds


def _check_folds(folds: Sequence[Any], known: set[str], path: Path) -> list[Problem]:
    reasons = [(i, reason) for i, fold in enumerate(folds) if (reason := _reason_against(fold))]
    fix = 'write {"train": [ids], "val": [ids]}, both non-empty and without a case in common'
    malformed = [
        problem("SK-F029", f"fold {i}: {reason}", where=path, fix=fix) for i, reason in reasons
    ]
    used = {case for fold in folds for case in _cases(fold)}
    # A fold that is mended may hold more cases: what none holds is told afterwards.
    unused = set() if malformed else known - used
    return malformed + _check_cases(used - known, unused, path) + _check_validation(folds, path)


def _cases(fold: Any) -> list[str]:
    """List the cases of a fold, as far as it can be understood."""
    parts = [fold.get(key) for key in _PARTS] if isinstance(fold, dict) else []
    lists = (part for part in parts if isinstance(part, list))
    return [case for part in lists for case in part if isinstance(case, str)]


def _reason_against(fold: Any) -> str | None:
    """Say what is wrong with a fold by itself."""
    if not isinstance(fold, dict):
        return f"expected keys and values, got {shown(fold)}"
    parts = [fold.get(key) for key in _PARTS]
    for part in parts:
        if not isinstance(part, list) or not part or not all(isinstance(i, str) for i in part):
            return "train or val is missing, empty or malformed"
    train, val = set(fold["train"]), set(fold["val"])
    common = sorted(train & val)
    return f"in train and in val: {listing(common)}" if common and len(train | val) > 1 else None


def _check_cases(unknown: set[str], unused: set[str], path: Path) -> list[Problem]:
    told = partial(problem, where=path)
    found = []
    if unknown:
        what = f"the splits name unknown cases: {listing(sorted(unknown))} ({len(unknown)} in all)"
        files = any("." in case for case in unknown)
        fix = "write case ids, without channel number and file ending" if files else _NEW_SPLITS
        found.append(told("SK-F030", what, fix=fix))
    if unused:
        what = f"cases in no fold: {listing(sorted(unused))} ({len(unused)} in all)"
        fix = "fine if they are to be left out; else add them to the folds"
        found.append(told("SK-F031", what, fix=fix))
    return found


def _check_validation(folds: Sequence[Any], path: Path) -> list[Problem]:
    parts = [fold.get("val") for fold in folds if isinstance(fold, dict)]
    lists = (set(filter(_is_text, part)) for part in parts if isinstance(part, list))
    counts = Counter(case for part in lists for case in part)
    if not (several := sorted(case for case, count in counts.items() if count > 1)):
        return []
    what = f"{len(several)} cases validate more than one fold: {listing(several)}"
    fix = "fine if folds repeat each other on purpose; a cross-validation counts a case once"
    return [problem("SK-F032", what, where=path, fix=fix)]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
