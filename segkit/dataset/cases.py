"""Which files make a case: imagesTr and labelsTr, an explicit list, or what is to be predicted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.dataset.case_files import (
    MULTILABEL,
    absent_channels,
    check_listed,
    check_reachable,
    complete_cases,
    group_channels,
    look_into,
    stem,
    subfolders,
    unpaired_labels,
    unpaired_masks,
)
from segkit.dataset.case_names import check_names, is_usable
from segkit.dataset.description import DatasetDescription
from segkit.dataset.dicom_series import group_series
from segkit.dataset.image_io import companions
from segkit.dataset.image_io.dicom_folders import holds_dicom
from segkit.dataset.problems import Problem, problem, raise_errors
from segkit.errors import UserError, nearest
from segkit.files import content_hash, file_hash


@dataclass(frozen=True, kw_only=True)
class Case:
    """One subject or scan: its image files and what is known of its labels."""

    id: str
    images: tuple[Path, ...]
    """One file a channel, or one file that holds all channels."""
    label: Path | None
    """A label file; for overlapping structures it may be a folder of one mask a structure."""
    mask: Path | None = None
    """Region of interest: where it is 0 the labels are ignored."""
    unannotated: tuple[str, ...] = ()
    """Overlapping structures nobody looked for in this case."""
    absent: tuple[int, ...] = ()
    """Numbers of channels that are not among the images, where a model may do without some."""

    def label_files(self) -> tuple[Path, ...]:
        """List the label file, or the files of the label folder that are not hidden."""
        if self.label is None or not self.label.is_dir():
            return () if self.label is None else (self.label,)
        files = (path for path in self.label.iterdir() if path.is_file())
        return tuple(sorted(path for path in files if not path.name.startswith(".")))

    def files(self) -> tuple[Path, ...]:
        """List all that is read for the case: images, labels, mask, and what belongs to them."""
        mask = () if self.mask is None else (self.mask,)
        named = (*self.images, *self.label_files(), *mask)
        beside = (other for file in named for other in companions(file))
        return tuple(dict.fromkeys((*named, *beside)))


def training_cases(description: DatasetDescription) -> tuple[Case, ...]:
    """Return the training cases, sorted by id; warnings are logged.

    Raises:
        UserError: one block with everything that is missing, surplus or misnamed.
    """
    cases, problems = find_cases(description)
    raise_errors(problems, where=description.folder)
    return cases


def find_cases(description: DatasetDescription) -> tuple[tuple[Case, ...], list[Problem]]:
    """Return the training cases, sorted by id, and all problems of the files.

    A case whose label file is missing is among them, without; that is one of the problems.
    """
    explicit = description.explicit_cases is not None
    cases, names, problems = (_explicit_cases if explicit else _cases_in_folders)(description)
    where = description.file if explicit else description.folder / "imagesTr"
    problems += check_names(names, where)
    problems += _check_unannotated(names, description)
    claimed = description.num_training
    broken = any(found.severity == "error" for found in problems)
    if cases and not broken and claimed is not None and claimed != len(cases):
        what = f"numTraining is {claimed}; {len(cases)} cases were found"
        fix = f'write "numTraining": {len(cases)}, or add what is missing'
        problems.append(problem("SK-F008", what, where=description.folder, fix=fix))
    usable = (case for case in cases if is_usable(case.id))
    return tuple(sorted(usable, key=lambda case: case.id)), problems


def images_to_predict(paths: Sequence[Path], description: DatasetDescription) -> tuple[Case, ...]:
    """Return the cases in folders or files, sorted by id and without labels.

    Raises:
        UserError: nothing there, or one block with everything missing, surplus or misnamed.
    """
    cases, problems = find_images(paths, description)
    raise_errors(problems, where=", ".join(map(str, paths)))
    return cases


def find_images(
    paths: Sequence[Path], description: DatasetDescription, *, may_lack_channels: bool = False
) -> tuple[tuple[Case, ...], list[Problem]]:
    """Return the cases in folders or files, sorted by id and without labels, and all problems.

    Files are named CASE_0000.ext, one a channel. A file that holds all channels of the data set
    (always so for a data set with one channel) may do without the number. A folder without such
    files may hold DICOM series, one a folder, named like files would be. A case with a problem of
    its own, such as a missing channel, is not among the cases.

    Args:
        paths: Folders or files.
        description: Of the model's data set.
        may_lack_channels: A case may do without some of its channels, whose numbers are told with
            it then.

    Raises:
        UserError: nothing there.
    """
    files, problems = _files_given(paths, description.file_ending)
    series = {} if problems else group_series(paths, files, description)
    if not (files or series or problems):
        what = f"no file ends with {description.file_ending}"
        fix = "give a folder or files of the format the model was trained on"
        raise UserError(what, where=", ".join(map(str, paths)), fix=fix)
    groups, misnamed = group_channels(files, description, numbers_needed=False)
    groups = {**series, **groups}
    images, incomplete = complete_cases(groups, description, may_lack=may_lack_channels)
    problems += misnamed + incomplete
    broken = {found.case for found in problems if found.severity == "error"}
    cases = [
        Case(
            id=name,
            images=images[name],
            label=None,
            absent=absent_channels(groups[name], description) if may_lack_channels else (),
        )
        for name in sorted(images.keys() - broken)
    ]
    return tuple(cases), problems


def case_identity(case: Case) -> str:
    """Hash the id, names and contents of a case's files; it changes when any of them does."""
    files = [(file.name, file_hash(file)) for file in case.files()]
    return content_hash([case.id, files, list(case.unannotated)])


def image_hash(case: Case) -> str:
    """Hash the contents of a case's image files (or series), whatever they are called."""
    beside = (other for file in case.images for other in companions(file))
    files = (path for path in dict.fromkeys((*case.images, *beside)) if path.is_file())
    absent = [list(case.absent)] if case.absent else []
    return content_hash([*map(file_hash, files), *absent])


def largest_case(cases: Iterable[Case]) -> int:
    """Estimate the most voxels times channels of a case, from file sizes at two bytes a voxel.

    0 without cases.
    """
    sizes = (sum(_unpacked_bytes(path) for path in case.images) for case in cases)
    return max(sizes, default=0) // 2


def _unpacked_bytes(path: Path) -> int:
    """Size of an image; for a gzip file the size it states of its content (modulo 4 GiB).

    0 for what cannot be opened: whoever reads it tells.
    """
    try:
        if path.suffix != ".gz":
            return sum(file.stat().st_size for file in (path, *companions(path)))
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - 4, 0))
            return int.from_bytes(stream.read(4), "little")
    except OSError:
        return 0


def _files_given(paths: Iterable[Path], ending: str) -> tuple[list[Path], list[Problem]]:
    files: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if barred := check_reachable(path):
            problems.append(barred)
        elif path.is_dir() and not holds_dicom(path):
            fitting, found = look_into(path, ending, may_be_empty=True)
            files += fitting
            problems += found
        elif not path.exists():
            problems.append(problem("SK-F011", "not found", where=path, fix="check the path"))
        elif path.is_file() and not path.name.endswith(ending):
            what = f"the model reads files that end with {ending}"
            problems.append(problem("SK-F014", what, where=path, fix=f"convert it to {ending}"))
        elif path.is_file():
            files.append(path)
    return files, problems


def _explicit_cases(
    description: DatasetDescription,
) -> tuple[list[Case], Collection[str], list[Problem]]:
    cases = []
    explicit = description.explicit_cases or {}
    masks, problems = find_masks(description)
    for name, entry in explicit.items():
        *images, label = (
            _resolve(path, description) for path in (*entry["images"], entry["label"])
        )
        mask = masks.get(name)
        files = images if mask is None else [*images, mask]
        missing = [_check_path(path, name) for path in files]
        missing.append(_check_path(label, name, may_be_folder=description.labels.overlapping))
        found = [absent for absent in missing if absent is not None]
        found = found or check_listed(name, images, description)
        problems += found
        unannotated = description.unannotated.get(name, ())
        case = Case(id=name, images=tuple(images), label=label, mask=mask, unannotated=unannotated)
        cases += [] if found else [case]
    return cases, explicit.keys(), problems


def _check_unannotated(names: Collection[str], description: DatasetDescription) -> list[Problem]:
    unknown = [name for name in description.unannotated if names and name not in names]
    tested = _test_cases(description) if unknown else set()
    where, known = f"{description.file}, key unannotated", {*names, *tested}
    return [
        problem("SK-F025", f"there is no case {name!r}", where=where, fix=nearest(name, known))
        for name in unknown
        if name not in tested
    ]


def _test_cases(description: DatasetDescription) -> set[str]:
    """Return the cases with files in imagesTs or labelsTs, which a data set may do without."""
    images, labels = (description.folder / name for name in ("imagesTs", "labelsTs"))
    groups, _ = group_channels(
        look_into(images, description.file_ending)[0], description, numbers_needed=False
    )
    ending = description.label_ending
    named = {stem(file, ending) for file in look_into(labels, ending)[0]}
    return {*groups, *named, *subfolders(labels)}


def _resolve(path: str, description: DatasetDescription) -> Path:
    return description.folder / os.path.expandvars(path)


def _check_path(path: Path, case: str, *, may_be_folder: bool = False) -> Problem | None:
    """Return why a path of the explicit list cannot be used."""
    if barred := check_reachable(path, case):
        return barred
    folder = path.is_dir()
    if path.is_file() or (folder and may_be_folder):
        return None
    what = "the file does not exist"
    fix = "correct the path; relative ones start at the data set's folder"
    if folder:
        what = "this is a folder, not a file"
        fix = f"name a file; a label folder, one mask a structure, needs {MULTILABEL}"
    return problem("SK-F011", what, where=path, fix=fix, case=case)


def _cases_in_folders(
    description: DatasetDescription,
) -> tuple[list[Case], Collection[str], list[Problem]]:
    files, problems = look_into(description.folder / "imagesTr", description.file_ending)
    groups, misnamed = group_channels(files, description, numbers_needed=True)
    images, incomplete = complete_cases(groups, description)
    labels, misplaced = _find_labels(description)
    masks, unread = find_masks(description)
    cases = [
        Case(
            id=name,
            images=images[name],
            label=labels.get(name),
            mask=masks.get(name),
            unannotated=description.unannotated.get(name, ()),
        )
        for name in images
    ]
    problems += [*misplaced, *unread, *misnamed, *incomplete]
    # Without images or labels at all, that alone is the news.
    if files and not {found.code for found in misplaced} & {"SK-F001", "SK-F002"}:
        problems += unpaired_labels(groups.keys(), labels, description)
    problems += unpaired_masks(groups.keys(), masks, description) if files else []
    return cases, groups.keys(), problems


def _find_labels(description: DatasetDescription) -> tuple[dict[str, Path], list[Problem]]:
    """Return case -> label file or folder."""
    folder, ending = description.folder / "labelsTr", description.label_ending
    folders = subfolders(folder)
    files, problems = look_into(folder, ending, may_be_empty=bool(folders))
    labels = {stem(file, ending): file for file in files}
    if not description.labels.overlapping:
        return labels, problems
    for name in sorted(labels.keys() & folders.keys()):
        what = f"the labels of {name} are also in the folder {folders[name]}"
        where, fix = labels[name], "keep one of the two"
        problems.append(problem("SK-F021", what, where=where, fix=fix, case=name))
    return {**labels, **folders}, problems


def find_masks(description: DatasetDescription) -> tuple[dict[str, Path], list[Problem]]:
    """Return case -> region of interest; a case may do without.

    An explicit case list names its masks itself; else they lie in masksTr.
    """
    folder, ending = description.folder / "masksTr", description.label_ending
    problems: list[Problem] = []
    files: list[Path] = []
    if barred := check_reachable(folder):
        problems.append(barred)
    elif folder.is_dir():
        files, problems = look_into(folder, ending, may_be_empty=True)
    if description.explicit_cases is None:
        return {stem(file, ending): file for file in files}, problems
    listed = description.explicit_cases.items()
    masks = {n: _resolve(entry["mask"], description) for n, entry in listed if "mask" in entry}
    return masks, _unlisted_masks(files, masks.values(), folder)


def _unlisted_masks(files: list[Path], listed: Collection[Path], folder: Path) -> list[Problem]:
    named = {os.path.realpath(path) for path in listed}
    unused = [file for file in files if os.path.realpath(file) not in named]
    if not unused:
        return []
    what = f"{len(unused)} masks are not named in the explicit case list, such as {unused[0].name}"
    fix = 'add "mask" to the entries of their cases under "dataset", or move the masks elsewhere'
    return [problem("SK-F027", what, where=folder, fix=fix)]
