"""The files of a data set's folders, sorted into cases and channels by their names."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from segkit.dataset.case_names import same_name
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import COMPANION_ENDINGS, read_header
from segkit.dataset.problems import Problem, problem
from segkit.errors import UserError

Groups = dict[str, dict[int, Path]]
"""Case -> channel number -> file."""

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})", re.DOTALL)
_METADATA = "._"
"""How macOS begins the name of what it stores beside a file."""
MULTILABEL = '"label_encoding": "multilabel" in dataset.json'


def _scan(folder: Path, ending: str) -> tuple[list[Path], list[Path]]:
    """Return the files with the ending, and all other visible ones but companions."""
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")
    )
    fitting = [file for file in files if file.name.endswith(ending)]
    others = [file for file in files if not file.name.endswith((ending, *COMPANION_ENDINGS))]
    return fitting, others


def look_into(
    folder: Path, ending: str, *, may_be_empty: bool = False
) -> tuple[list[Path], list[Problem]]:
    """Return the files of a folder with the ending, and what is wrong with all others."""
    try:
        if not folder.is_dir():
            fix = "put images into imagesTr/CASE_0000.ext and labels into labelsTr/CASE.ext"
            return [], [problem("SK-F001", "the folder is missing", where=folder, fix=fix)]
        fitting, others = _scan(folder, ending)
        problems = _hidden(folder, ending) + _dangling(folder)
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror}"
        where = error.filename or folder
        return [], [problem("SK-F001", what, where=where, fix="check its permissions")]
    if fitting or others or not may_be_empty:
        problems += _other_files(folder, fitting, others, ending)
    return fitting, problems


def subfolders(folder: Path) -> dict[str, Path]:
    """Return name -> path of the visible folders in a folder; none where that is missing.

    None either where it cannot be read: :func:`look_into` tells.
    """
    try:
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: path for path in inside if path.is_dir() and path.name[0] != "."}
    except OSError:
        return {}


def check_reachable(path: Path, case: str | None = None) -> Problem | None:
    """Tell a path that cannot even be looked at (not one where nothing is)."""
    try:
        path.is_file()
    except OSError as error:
        what = f"the path cannot be looked at: {error.strerror}"
        fix = "check the path, and the permissions of the folders it leads through"
        return problem("SK-F010", what, where=path, fix=fix, case=case)
    return None


def _hidden(folder: Path, ending: str) -> list[Problem]:
    """Tell cases that are passed over because of a leading dot."""
    fix = "rename the file without the dot, or delete it"
    return [
        problem("SK-F015", "a file whose name begins with a dot is not read", where=file, fix=fix)
        for file in sorted(folder.glob(f".*{ending}"))
        if file.is_file() and not file.name.startswith(_METADATA)
    ]


def _dangling(folder: Path) -> list[Problem]:
    fix = "restore what it points to, or delete the link"
    return [
        problem("SK-F010", "a link to a file that does not exist", where=path, fix=fix)
        for path in sorted(folder.iterdir())
        if path.is_symlink() and not path.exists()
    ]


def _other_files(folder: Path, files: list[Path], others: list[Path], ending: str) -> list[Problem]:
    """Return what is wrong with the endings of a folder's files, as :func:`_scan` gives them."""
    kinds = ", ".join(sorted({"".join(file.suffixes[-2:]) for file in others})[:5])
    if not files:
        what = f"no file ends with {ending}" + (f"; there are {kinds}" if kinds else "")
        fix = "correct file_ending in dataset.json, or add the files"
        return [problem("SK-F002", what, where=folder, fix=fix)]
    if not others:
        return []
    what = f"{len(others)} files do not end with {ending}, such as {others[0].name}"
    fix = f"convert them to {ending}, or move them elsewhere"
    if all(file.name.lower().endswith(ending.lower()) for file in others):
        fix = f"rename them to end with {ending}; upper and lower case make a difference"
    return [problem("SK-F009", what, where=folder, fix=fix)]


def stem(file: Path, ending: str) -> str:
    """Return the name of a file without its ending."""
    return file.name[: -len(ending)]


def group_channels(
    files: Sequence[Path], description: DatasetDescription, *, numbers_needed: bool
) -> tuple[Groups, list[Problem]]:
    """Sort image files into case -> channel number -> file."""
    ending = description.file_ending
    stems = {stem(file, ending) for file in files}
    groups: Groups = {}
    problems = []
    for file in files:
        case, number = case_and_number(stem(file, ending), stems, description, numbers_needed)
        if number is None:
            fix = f"rename it to {case}_0000{ending}"
            what = "the file name does not end with a channel number of four digits"
            problems.append(problem("SK-F003", what, where=file, fix=fix, case=case))
        elif (other := groups.setdefault(case, {}).setdefault(number, file)) is not file:
            what = f"channel {number} of case {case} is also {other}"
            fix = "remove or rename one of the two"
            problems.append(problem("SK-F013", what, where=file, fix=fix, case=case))
    return groups, problems


def case_and_number(
    name: str, stems: set[str], description: DatasetDescription, numbers_needed: bool
) -> tuple[str, int | None]:
    """Split ``CASE_0000``, the name of a file or folder, into case and channel number.

    Args:
        name: Without ending.
        stems: The names of all that lie beside it.
        description: It says how many channels there are.
        numbers_needed: None is the number where there is none; else 0, the only channel.
    """
    match = _CHANNEL.fullmatch(name)
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
    return name, None if numbers_needed else 0


def complete_cases(
    groups: Groups, description: DatasetDescription, *, may_lack: bool = False
) -> tuple[dict[str, tuple[Path, ...]], list[Problem]]:
    """Return the images of every case that has all its channels, and what the others lack.

    With ``may_lack``, channels whose files are numbered may be missing, but not all.
    """
    images, problems = {}, []
    for case, files in groups.items():
        found = check_channels(case, files, description)
        if may_lack and all(_is_numbered(file, description) for file in files.values()):
            found = [one for one in found if one.code != "SK-F004"]
        problems += found
        if not found:
            images[case] = tuple(files[number] for number in sorted(files))
    return images, problems


def absent_channels(files: dict[int, Path], description: DatasetDescription) -> tuple[int, ...]:
    """Return the channels a case that is complete otherwise does without."""
    expected = len(description.channel_names)
    if files.keys() == {0} and expected > 1:
        in_one = read_header(files[0], description.reader).channels == expected
        return () if in_one else tuple(range(1, expected))
    return tuple(number for number in range(expected) if number not in files)


def _is_numbered(file: Path, description: DatasetDescription) -> bool:
    return _CHANNEL.fullmatch(file.name.removesuffix(description.file_ending)) is not None


def check_channels(
    case: str, files: dict[int, Path], description: DatasetDescription
) -> list[Problem]:
    """Check that a case has its channels: one file each, or all in one file."""
    expected = set(range(len(description.channel_names)))
    some_file = next(iter(files.values()))
    found = _check_only_file(case, some_file, description) if files.keys() == {0} else None
    if found is not None:
        return found
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


def check_listed(
    case: str, images: Sequence[Path], description: DatasetDescription
) -> list[Problem]:
    """Do what :func:`check_channels` does for the paths of an explicit list."""
    listed, declared = len(images), len(description.channel_names)
    found = _check_only_file(case, images[0], description) if listed == 1 else None
    if found is not None:
        return found
    if listed == declared:
        return []
    code = "SK-F004" if listed < declared else "SK-F005"
    what = f"images lists {listed} path{'s' * (listed != 1)}, channel_names {declared}"
    fix = "list one path a channel, in the order of channel_names, or one file that holds them all"
    where = f"{description.file}, key dataset"
    return [problem(code, what, where=where, fix=fix, case=case)]


def _check_only_file(
    case: str, file: Path, description: DatasetDescription
) -> list[Problem] | None:
    """Check a case's only file; None where it holds one channel, as a file of many would."""
    expected = len(description.channel_names)
    if expected == 1:
        return None
    try:
        count = read_header(file, description.reader).channels
    except UserError as error:
        fix = error.fix or "restore the file"
        return [problem("SK-F010", error.what, where=file, fix=fix, case=case)]
    if count == expected:
        return []
    if count == 1:
        return None
    what = f"the file holds {count} channels; dataset.json declares {expected}"
    fix = "correct channel_names, or store one file a channel"
    return [problem("SK-F012", what, where=file, fix=fix, case=case)]


def unpaired_labels(
    cases: Collection[str], labels: Mapping[str, Path], description: DatasetDescription
) -> list[Problem]:
    """Return the images without labels and the labels without images."""
    free = labels.keys() - cases
    problems = []
    for case in sorted(set(cases) - labels.keys()):
        meant = next((name for name in sorted(free) if _may_mean(name, case)), None)
        free -= {meant}
        wanted = description.folder / "labelsTr" / f"{case}{description.label_ending}"
        fix = _label_fix(case, meant, wanted, description)
        what = "the images have no label file"
        problems.append(problem("SK-F006", what, where=wanted, fix=fix, case=case))
    for case in sorted(free):
        fix = f"add imagesTr/{case}_0000{description.file_ending}, or remove the label file"
        what = "the label file has no image"
        problems.append(problem("SK-F007", what, where=labels[case], fix=fix, case=case))
    return problems


def _may_mean(label: str, case: str) -> bool:
    """Whether a label without images may be that of a case without labels."""
    return same_name(label) in map(same_name, (case, f"{case}_0000", case.removesuffix("_0000")))


def _label_fix(case: str, meant: str | None, wanted: Path, description: DatasetDescription) -> str:
    ending, folder = description.label_ending, wanted.parent / case
    if meant == f"{case}_0000":
        return f"rename {meant}{ending} to {case}{ending}; labels have no channel number"
    if meant is not None and f"{meant}_0000" == case:
        image = description.file_ending
        return f"the channel number stands twice: rename {case}_0000{image} to {case}{image}"
    if meant is not None:
        return f"rename {meant}{ending} to {case}{ending}; {_difference(meant, case)}"
    if folder.is_dir() and not description.labels.overlapping:
        return f"is there one mask a structure in {folder}, then write {MULTILABEL}"
    others = wanted.parent.glob(f"{glob.escape(case)}.*")
    if other := next((file for file in sorted(others) if file.is_file()), None):
        return f"convert {other.name} to {wanted.name}"
    return "add the label file, or move the images to imagesTs"


def _difference(name: str, wanted: str) -> str:
    """Say how two names differ that :func:`same_name` takes for one."""
    if unicodedata.normalize("NFC", name) != unicodedata.normalize("NFC", wanted):
        return "upper and lower case make a difference"
    return f"the accents are stored differently: {name!a}, which should be {wanted!a}"


def unpaired_masks(
    cases: Collection[str], masks: Mapping[str, Path], description: DatasetDescription
) -> list[Problem]:
    """Return the masks without images; a case may do without a mask."""
    problems = []
    for name in sorted(masks.keys() - cases):
        meant = next((case for case in sorted(cases) if _may_mean(name, case)), None)
        fix = f"add imagesTr/{name}_0000{description.file_ending}, or remove the mask"
        if meant is not None:
            fix = f"rename it to {meant}{description.label_ending}"
            fix += f"; {_difference(name, meant)}" * (same_name(name) == same_name(meant))
        what = "the mask has no image; it is not used"
        problems.append(problem("SK-F020", what, where=masks[name], fix=fix, case=name))
    return problems
