"""The folds of a dataset: dealt once, kept while models are trained on them, checked for leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from segkit import options as opt
from segkit.dataset.dealing import Traits, in_quarters, traits_of_values
from segkit.dataset.description import command
from segkit.dataset.duplicates import same_images
from segkit.dataset.grouping import BY_IMAGES, groups_of, propose_column, propose_rule
from segkit.dataset.leaks import Leak, describe_leaks, find_leaks
from segkit.dataset.split_files import load_folds, load_splits, save_folds
from segkit.dataset.splits import (
    Folds,
    Split,
    SplitRequest,
    make_grouped_splits,
    make_splits,
    split_for_fold,
)
from segkit.dataset.tables import CaseTable, read_table, usual_table
from segkit.errors import UsageError, UserError, listing
from segkit.files import content_hash, file_hash
from segkit.planning.fingerprint import Fingerprint, load_fingerprint
from segkit.planning.strata import label_traits
from segkit.runtime import log
from segkit.workflows.common import OpenDataset

BY_LABELS = "labels"
FoldName = int | Literal["all"]


def settle_folds(dataset: OpenDataset, options: opt.Splitting) -> Folds:
    """Deal folds as asked for; what was dealt before is kept where nothing is asked for.

    Leaks and better ways to deal are told.

    Raises:
        UserError: the options make no sense, or other folds were trained on.
    """
    asked = _request(options)
    present = _present(dataset)
    folds = _wanted(dataset, asked, present)
    if present is None or present.made_from != folds.made_from:
        _tell_changed(dataset, present)
    elif present.splits != folds.splits:
        _check_replaced(dataset, present, overwrite=options.overwrite_splits)
    elif asked is None and not present.request.plain:
        log.info("folds are kept as they were made: %s", _described(present))
    if folds != present:
        save_folds(dataset.workspace.splits, folds)
        log.info("folds: %s, in %s", _described(folds), dataset.workspace.splits)
    _tell_better(dataset, folds)
    if leaks := _leaks(dataset, dict(enumerate(folds.splits)), folds):
        log.warning("%s\n%s; training will refuse it", *_told(dataset, leaks))
    return folds


def check_splitting(dataset: OpenDataset, options: opt.Splitting) -> None:
    """Refuse, before anything is measured, what can be seen in the options and the table.

    Raises:
        UserError: numbers out of range, an unreadable table, columns that it lacks, or a rule that
            names no group for some case.
    """
    asked = _request(options)
    if asked is None:
        return
    table = _table(dataset, asked.table)
    groups_of(dataset.case_ids, asked.group_by, table)
    for name in asked.stratify:
        if name != BY_LABELS:
            _values(table, name, dataset.case_ids)


def check_cases(dataset: OpenDataset, *, overwrite: bool) -> None:
    """Refuse to go on with other cases, or other splits by hand, than models were trained on.

    To be asked before plan and folds are made anew.

    Args:
        dataset: The data set.
        overwrite: Whether folds may be replaced all the same.

    Raises:
        UserError: models were trained on folds of other cases.
    """
    present = _present(dataset)
    if present is None or overwrite or not (trained := _trained_on_folds(dataset)):
        return
    if not dataset.given_splits.is_file():
        changed = present.made_from != content_hash(sorted(dataset.case_ids))
    elif present.made_from == file_hash(dataset.given_splits):
        changed = False
    else:
        changed = present.splits != load_splits(dataset.given_splits, dataset.case_ids)
    if changed:
        what = f"{_what_changed(dataset, present)} since models were trained on these folds: "
        what += listing(trained)
        workdir = ("-w", str(dataset.workspace.folder.parent))
        again = command("plan", dataset.description, *_as_options(present.request), *workdir)
        fix = "put the data set back as it was; or deal the folds anew, and train again with "
        fix += f"--overwrite: {again} --overwrite-splits"
        raise UserError(what, where=dataset.workspace.splits, fix=fix)


def _what_changed(dataset: OpenDataset, present: Folds) -> str:
    before = {case for split in present.splits for case in (*split.train, *split.val)}
    added, gone = (
        sorted(cases) for cases in (set(dataset.case_ids) - before, before - set(dataset.case_ids))
    )
    told = [f"new: {listing(added)}"] if added else []
    told += [f"gone: {listing(gone)}"] if gone else []
    return f"the cases changed ({'; '.join(told)})" if told else "the splits changed"


def _as_options(request: SplitRequest) -> list[str]:
    """Write how folds are wanted as a user types it."""
    usual = SplitRequest()
    given: list[object] = ["--group-by", request.group_by] if request.group_by is not None else []
    given += ["--stratify", *request.stratify] if request.stratify else []
    given += ["--table", request.table] if request.table is not None else []
    given += ["--num-folds", request.num_folds] if request.num_folds != usual.num_folds else []
    given += ["--split-seed", request.seed] if request.seed != usual.seed else []
    return [str(word) for word in given]


def open_folds(dataset: OpenDataset) -> Folds:
    """Return the folds of a dataset; they are dealt where there are none, or for other cases.

    Raises:
        UserError: models were trained on folds of other cases.
    """
    present = _present(dataset)
    check_cases(dataset, overwrite=False)
    folds = _wanted(dataset, None, present)
    if folds != present:
        _tell_changed(dataset, present)
        save_folds(dataset.workspace.splits, folds)
    return folds


def open_split(dataset: OpenDataset, fold: FoldName, *, allow_leaks: bool) -> Split:
    """Return what a fold is trained and validated on.

    Raises:
        UserError: there is no such fold, or it is validated on what it is trained on.
    """
    folds = open_folds(dataset)
    split = split_for_fold(folds, fold, dataset.case_ids)
    if leaks := _leaks(dataset, {fold: split}, folds):
        what, fix = _told(dataset, leaks)
        if not allow_leaks:
            raise UserError(what, where=dataset.workspace.splits, fix=fix)
        log.warning("%s\nas --allow-leaks says, it is trained all the same", what)
    return split


def _request(options: opt.Splitting) -> SplitRequest | None:
    """Gather how folds are wanted; None where nothing is said about it."""
    given = {
        "num_folds": options.num_folds,
        "seed": options.split_seed,
        "group_by": options.group_by,
        "stratify": options.stratify or None,
        "table": None if options.table is None else str(options.table.resolve()),
    }
    said = {name: value for name, value in given.items() if value is not None}
    if options.table is not None and not {"group_by", "stratify"} & said.keys():
        fix = "add --group-by COLUMN or --stratify COLUMN, or leave it out"
        raise UsageError("a table alone changes nothing", where="--table", fix=fix)
    if not said and not options.overwrite_splits:
        return None
    return SplitRequest(**said)  # type: ignore[arg-type]


def _present(dataset: OpenDataset) -> Folds | None:
    path = dataset.workspace.splits
    return load_folds(path, None) if path.is_file() else None


def _wanted(dataset: OpenDataset, asked: SplitRequest | None, present: Folds | None) -> Folds:
    """Make the folds that are asked for; else those there are, made again for other cases."""
    if dataset.given_splits.is_file():
        return _given(dataset, asked, present)
    made_from = content_hash(sorted(dataset.case_ids))
    if asked is None and present is not None and present.made_from == made_from:
        return load_folds(dataset.workspace.splits, dataset.case_ids)
    request = asked or (SplitRequest() if present is None else present.request)
    if request.plain:
        splits = make_splits(dataset.case_ids, request.num_folds, request.seed)
        return Folds(splits=splits, request=request, made_from=made_from)
    known = _Known.gather(dataset, request)
    groups = known.groups(request)
    splits = make_grouped_splits(groups, known.traits(request), request)
    members = _members(groups) if request.group_by is not None else {}
    return Folds(splits=splits, request=request, groups=members, made_from=made_from)


def _given(dataset: OpenDataset, asked: SplitRequest | None, present: Folds | None) -> Folds:
    """Read the splits made by hand; a grouping asked for is what they are checked against."""
    path = dataset.given_splits
    made_from, splits = file_hash(path), load_splits(path, dataset.case_ids)
    if asked is None:
        same = present is not None and present.made_from == made_from
        kept = present if same and present is not None else Folds(splits=splits)
        return replace(kept, splits=splits, made_from=made_from)
    request = SplitRequest(group_by=asked.group_by, table=asked.table)
    if asked != request:
        fix = f"take {path.name} away to have folds made, or leave these options out"
        raise UserError("the folds are settled by hand", where=path, fix=fix)
    groups = {}
    if request.group_by is not None:
        groups = _members(_Known.gather(dataset, request).groups(request))
    return Folds(splits=splits, request=request, groups=groups, made_from=made_from)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of the cases beyond their ids."""

    case_ids: Sequence[str]
    table: CaseTable | None
    fingerprint: Fingerprint

    @classmethod
    def gather(cls, dataset: OpenDataset, request: SplitRequest) -> _Known:
        table = _table(dataset, request.table)
        if table is not None:
            table.tell_unused(dataset.case_ids)
        return cls(
            case_ids=dataset.case_ids,
            table=table,
            fingerprint=load_fingerprint(dataset.workspace.fingerprint),
        )

    def groups(self, request: SplitRequest) -> dict[str, str]:
        """Return case -> group; cases of the same image are always of one."""
        same = same_images({case.case: case.image_hashes for case in self.fingerprint.cases})
        return groups_of(self.case_ids, request.group_by, self.table, same)

    def traits(self, request: SplitRequest) -> Traits:
        return Traits.join([self._trait(name) for name in request.stratify], len(self.case_ids))

    def _trait(self, name: str) -> Traits:
        if name == BY_LABELS:
            return label_traits(self.fingerprint)
        values = _values(self.table, name, self.case_ids)
        taken = in_quarters(list(values.values()))
        if taken != list(values.values()):
            log.info("%s: numbers of many values are balanced by quarters of the cases", name)
        return traits_of_values(taken)


def _values(table: CaseTable | None, name: str, case_ids: Sequence[str]) -> dict[str, str]:
    if table is None:
        fix = "give --table FILE, or put cases.csv into the dataset's folder"
        raise UserError(f"there is no table with {name!r}", where="--stratify", fix=fix)
    return table.values(name, case_ids)


def _table(dataset: OpenDataset, named: str | None) -> CaseTable | None:
    path = usual_table(dataset.description) if named is None else Path(named)
    return read_table(path) if named is not None or path.is_file() else None


def _members(groups: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {}
    for case, group in groups.items():
        members.setdefault(group, []).append(case)
    return {group: tuple(cases) for group, cases in members.items()}


def _tell_changed(dataset: OpenDataset, present: Folds | None) -> None:
    if present is not None:
        text = "%s: the cases or the given splits changed; folds are dealt anew"
        log.warning(text, dataset.workspace.splits)


def _check_replaced(dataset: OpenDataset, present: Folds, *, overwrite: bool) -> None:
    """Refuse to replace folds that models were trained on."""
    folders = _trained_on_folds(dataset)
    trained = listing(folders)
    if folders and not overwrite:
        what = f"models were trained on other folds ({_described(present)}): {trained}"
        fix = "leave the options out to keep these; or --overwrite-splits, and train again"
        raise UserError(what, where=dataset.workspace.splits, fix=fix)
    if folders:
        log.warning("trained on other folds than those dealt now: %s", trained)


def _trained_on_folds(dataset: OpenDataset) -> list[str]:
    """Name all folds that are trained or begun, ``MODEL/fold_N``; not those of all cases."""
    checkpoints = dataset.workspace.folder.glob("models/*/fold_*/*.pt")
    folders = sorted({path.parent for path in checkpoints if path.parent.name != "fold_all"})
    return [f"{folder.parent.name}/{folder.name}" for folder in folders]


def _described(folds: Folds) -> str:
    """Say in a few words how folds were made."""
    sizes = sorted({len(split.val) for split in folds.splits})
    cases = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    words = [f"{len(folds.splits)} folds of {cases} case(s)"]
    if folds.groups:
        words.append(f"{len(folds.groups)} groups by {folds.request.group_by!r} kept whole")
    if folds.request.stratify:
        words.append(f"{' and '.join(folds.request.stratify)} balanced")
    if folds.request.seed != SplitRequest().seed:
        words.append(f"seed {folds.request.seed}")
    return ", ".join(words)


def _tell_better(dataset: OpenDataset, folds: Folds) -> None:
    """Say which grouping the table or the names of cases suggest."""
    if folds.request.group_by is not None:
        return
    table = _table(dataset, None)
    column = None if table is None else propose_column(table, dataset.case_ids)
    proposal = column or propose_rule(dataset.case_ids)
    if proposal is not None:
        rule, groups = proposal
        typed = command("plan", dataset.description, "--group-by", rule)
        text = "there seem to be several cases a patient (%d cases of %d); to keep them in one "
        log.warning(text + "fold: %s", len(dataset.case_ids), groups, typed)


def _leaks(
    dataset: OpenDataset, splits: Mapping[FoldName, Split], folds: Folds
) -> dict[str, list[Leak]]:
    """Find what each fold is trained and validated on alike; folds without are left out."""
    fingerprint = load_fingerprint(dataset.workspace.fingerprint)
    same = same_images({case.case: case.image_hashes for case in fingerprint.cases})
    found = {str(name): find_leaks(split, folds.groups, same) for name, split in splits.items()}
    return {name: leaks for name, leaks in found.items() if leaks}


def _told(dataset: OpenDataset, leaks: Mapping[str, Sequence[Leak]]) -> tuple[str, str]:
    """Say what leaks, and what to do about it."""
    present = _present(dataset)
    rule = present.request.group_by if present is not None else None
    if dataset.given_splits.is_file():
        fix = f"mend {dataset.given_splits}"
    else:
        options = ("--group-by", rule or BY_IMAGES, "--overwrite-splits")
        fix = command("plan", dataset.description, *options)
    return describe_leaks(leaks), f"{fix}; or --allow-leaks, if the scores may be too good"
