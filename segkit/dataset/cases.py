"""Which files make a case: imagesTr and labelsTr, an explicit list, or what is to be predicted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import count_channels
from segkit.dataset.problems import Problem, problem, raise_errors
from segkit.errors import UserError
from segkit.files import content_hash, file_hash

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")
_COMPANIONS = (".json", ".raw", ".zraw")
"""Endings of files that belong to another one: spacings of TIFF, voxels of MetaImage."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One subject or scan: its image files and its label file."""

    id: str
    images: tuple[Path, ...]
    """One file a channel, or one file that holds all channels."""
    label: Path | None


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
    if description.explicit_cases is not None:
        cases, problems = _explicit_cases(description)
    else:
        cases, problems = _cases_in_folders(description)
    claimed = description.num_training
    if cases and not problems and claimed is not None and claimed != len(cases):
        what = f"numTraining is {claimed}; {len(cases)} cases were found"
        fix = f'write "numTraining": {len(cases)}, or add what is missing'
        problems.append(problem("SK-F008", what, where=description.folder, fix=fix))
    return tuple(sorted(cases, key=lambda case: case.id)), problems


def images_to_predict(paths: Sequence[Path], description: DatasetDescription) -> tuple[Case, ...]:
    """Return the cases in folders or files, sorted by id and without labels.

    Files are named CASE_0000.ext, one a channel. A file that holds all channels of the data set
    (always so for a data set with one channel) may do without the number.

    Raises:
        UserError: nothing there, or one block with everything missing, surplus or misnamed.
    """
    files, problems = _files_given(paths, description.file_ending)
    if not files and not problems:
        what = f"no file ends with {description.file_ending}"
        fix = "give a folder or files of the format the model was trained on"
        raise UserError(what, where=", ".join(map(str, paths)), fix=fix)
    groups, misnamed = _group(files, description, numbers_needed=False)
    cases, incomplete = _complete(groups, description)
    raise_errors(problems + misnamed + incomplete, where=", ".join(map(str, paths)))
    return tuple(sorted(cases, key=lambda case: case.id))


def case_identity(case: Case) -> str:
    """Hash the id, names and contents of a case's files; it changes when any of them does."""
    files = [*case.images, *([case.label] if case.label else [])]
    return content_hash([case.id, [(file.name, file_hash(file)) for file in files]])


def largest_case(cases: Iterable[Case]) -> int:
    """Estimate the most voxels times channels of a case, from file sizes at two bytes a voxel.

    0 without cases.
    """
    sizes = (sum(_unpacked_bytes(path) for path in case.images) for case in cases)
    return max(sizes, default=0) // 2


def _unpacked_bytes(path: Path) -> int:
    """Size of a file; for a gzip file the size it states of its content (modulo 4 GiB)."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - 4, 0))
        return int.from_bytes(stream.read(4), "little")


def _explicit_cases(description: DatasetDescription) -> tuple[list[Case], list[Problem]]:
    cases, problems = [], []
    for name, entry in (description.explicit_cases or {}).items():
        *images, label = (
            description.folder / os.path.expandvars(path)
            for path in (*entry["images"], entry["label"])
        )
        if absent := [path for path in (*images, label) if not path.is_file()]:
            fix = "correct the path; relative ones start at the data set's folder"
            problems += [
                problem("SK-F011", "the file does not exist", where=path, fix=fix, case=name)
                for path in absent
            ]
            continue
        found = _check_channels(name, dict(enumerate(images)), description)
        problems += found
        if not found:
            cases.append(Case(id=name, images=tuple(images), label=label))
    return cases, problems


def _cases_in_folders(description: DatasetDescription) -> tuple[list[Case], list[Problem]]:
    endings = {"imagesTr": description.file_ending, "labelsTr": description.label_ending}
    files: list[list[Path]] = []
    problems: list[Problem] = []
    for name, ending in endings.items():
        folder = description.folder / name
        fitting, others = _scan(folder, ending) if folder.is_dir() else ([], [])
        files.append(fitting)
        problems += _check_folder(folder, fitting, others, ending)
    groups, misnamed = _group(files[0], description, numbers_needed=True)
    complete, incomplete = _complete(groups, description)
    labels = {_stem(file, description.label_ending): file for file in files[1]}
    cases = [Case(id=case.id, images=case.images, label=labels.get(case.id)) for case in complete]
    # With one of the folders empty, that alone is the news.
    unpaired = _unpaired(groups, labels, description) if all(files) else []
    return cases, [*problems, *misnamed, *incomplete, *unpaired]


def _check_folder(
    folder: Path, files: list[Path], others: list[Path], ending: str
) -> list[Problem]:
    if not folder.is_dir():
        fix = "put images into imagesTr/CASE_0000.ext and labels into labelsTr/CASE.ext"
        return [problem("SK-F001", "the folder is missing", where=folder, fix=fix)]
    return _other_files(folder, files, others, ending)


def _scan(folder: Path, ending: str) -> tuple[list[Path], list[Path]]:
    """Return the files with the ending, and all other visible ones but companions."""
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")
    )
    fitting = [file for file in files if file.name.endswith(ending)]
    others = [file for file in files if not file.name.endswith((ending, *_COMPANIONS))]
    return fitting, others


def _other_files(folder: Path, files: list[Path], others: list[Path], ending: str) -> list[Problem]:
    kinds = ", ".join(sorted({"".join(file.suffixes[-2:]) for file in others})[:5])
    if not files:
        what = f"no file ends with {ending}" + (f"; there are {kinds}" if kinds else "")
        fix = "correct file_ending in dataset.json, or add the files"
        return [problem("SK-F002", what, where=folder, fix=fix)]
    if not others:
        return []
    what = f"{len(others)} files do not end with {ending}, such as {others[0].name}"
    fix = f"convert them to {ending}, or move them elsewhere"
    return [problem("SK-F009", what, where=folder, fix=fix)]


def _stem(file: Path, ending: str) -> str:
    return file.name[: -len(ending)]


def _files_given(paths: Iterable[Path], ending: str) -> tuple[list[Path], list[Problem]]:
    files: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if path.is_dir():
            fitting, others = _scan(path, ending)
            files += fitting
            problems += _other_files(path, fitting, others, ending) if others else []
        elif not path.is_file():
            found = problem("SK-F011", "not found", where=path, fix="check the path")
            problems.append(found)
        elif not path.name.endswith(ending):
            what = f"the model reads files that end with {ending}"
            problems.append(problem("SK-F014", what, where=path, fix=f"convert it to {ending}"))
        else:
            files.append(path)
    return files, problems


Groups = dict[str, dict[int, Path]]


def _group(
    files: Sequence[Path], description: DatasetDescription, *, numbers_needed: bool
) -> tuple[Groups, list[Problem]]:
    """Sort image files into case -> channel number -> file."""
    ending = description.file_ending
    stems = {_stem(file, ending) for file in files}
    groups: Groups = {}
    problems = []
    for file in files:
        case, number = _case_and_number(_stem(file, ending), stems, description, numbers_needed)
        if number is None:
            fix = f"rename it to {case}_0000{ending}"
            what = "the file name does not end with a channel number of four digits"
            problems.append(problem("SK-F003", what, where=file, fix=fix, case=case))
        elif (other := groups.setdefault(case, {}).setdefault(number, file)) is not file:
            what = f"channel {number} of case {case} is also {other}"
            fix = "remove or rename one of the two"
            problems.append(problem("SK-F013", what, where=file, fix=fix, case=case))
    return groups, problems


def _case_and_number(
    stem: str, stems: set[str], description: DatasetDescription, numbers_needed: bool
) -> tuple[str, int | None]:
    match = _CHANNEL.fullmatch(stem)
    single = len(description.channel_names) == 1
    # patient_0007 of a data set with one channel is a case of that name, not channel 7.
    part_of_name = (
        match is not None
        and single
        and match["number"] != "0000"
        and f"{match['case']}_0000" not in stems
    )
    if match and (numbers_needed or not part_of_name):
        return match["case"], int(match["number"])
    return stem, None if numbers_needed else 0


def _complete(groups: Groups, description: DatasetDescription) -> tuple[list[Case], list[Problem]]:
    cases, problems = [], []
    for case, files in groups.items():
        found = _check_channels(case, files, description)
        problems += found
        if not found:
            images = tuple(files[number] for number in sorted(files))
            cases.append(Case(id=case, images=images, label=None))
    return cases, problems


def _check_channels(
    case: str, files: dict[int, Path], description: DatasetDescription
) -> list[Problem]:
    """Check that a case has its channels: one file each, or all in one file."""
    expected = set(range(len(description.channel_names)))
    some_file = next(iter(files.values()))
    if files.keys() == {0} and len(expected) > 1:
        try:
            if count_channels(some_file, description.reader) == len(expected):
                return []
        except UserError as error:
            fix = error.fix or "restore the file"
            return [problem("SK-F010", error.what, where=some_file, fix=fix, case=case)]
    names = [f"{i} ({name})" for i, name in enumerate(description.channel_names)]
    missing = [
        problem(
            "SK-F004",
            f"channel {names[number]} is missing",
            where=some_file.parent / f"{case}_{number:04d}{description.file_ending}",
            fix="add the file, or take the case's other files away",
            case=case,
        )
        for number in sorted(expected - files.keys())
    ]
    surplus = [
        problem(
            "SK-F005",
            f"dataset.json declares no channel {number}; it has {', '.join(names)}",
            where=files[number],
            fix="declare it under channel_names or remove it; is the number part of the case's "
            f"name, then rename the file to {case}_{number:04d}_0000{description.file_ending}",
            case=case,
        )
        for number in sorted(files.keys() - expected)
    ]
    return missing + surplus


def _unpaired(
    groups: Groups, labels: dict[str, Path], description: DatasetDescription
) -> list[Problem]:
    ending, problems = description.label_ending, []
    for case in sorted(groups.keys() - labels.keys()):
        wanted = description.folder / "labelsTr" / f"{case}{ending}"
        fix = "add the label file, or move the images to imagesTs"
        if f"{case}_0000" in labels:
            fix = f"rename {case}_0000{ending} to {case}{ending}; labels have no channel number"
        what = "the images have no label file"
        problems.append(problem("SK-F006", what, where=wanted, fix=fix, case=case))
    for case in sorted(labels.keys() - groups.keys()):
        if case.endswith("_0000") and case.removesuffix("_0000") in groups:
            continue  # told above, with the images
        fix = f"add imagesTr/{case}_0000{description.file_ending}, or remove the label file"
        what = "the label file has no image"
        problems.append(problem("SK-F007", what, where=labels[case], fix=fix, case=case))
    return problems
