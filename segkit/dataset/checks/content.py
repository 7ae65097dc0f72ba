"""All problems of a dataset.json in one list."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from segkit.dataset.checks.labels import check_labels, turned_round
from segkit.dataset.checks.sides import check_sides
from segkit.dataset.checks.structures import check_unannotated
from segkit.dataset.image_io import KNOWN_ENDINGS, READERS, check_reader
from segkit.dataset.labels import LabelSchema
from segkit.dataset.problems import LABEL_CODES, Problem, problem
from segkit.errors import UserError, closest, nearest
from segkit.json_text import is_int, shown

REQUIRED = ("channel_names", "labels", "file_ending")
OPTIONAL = (
    "numTraining",
    "regions_class_order",
    "overwrite_image_reader_writer",
    "dataset",
    "ignore_label",
    "label_encoding",
    "unannotated",
    "mirror_pairs",
    "left_right_axis",
)
HARMLESS = (
    *("name", "description", "reference", "release", "licence", "license", "converted_by"),
    *("citation", "author", "tensorImageSize", "training", "test", "numTest", "modality"),
    "$schema",
)
"""Keys that nnU-Net, its predecessors and editors write and nobody reads."""
CASE_KEYS = ("images", "label", "mask")
"""Keys of a case in the explicit list (``dataset``); the mask is optional."""
ENCODINGS = ("integers", "multilabel")
"""Values of ``label_encoding``; null and absence mean the first."""

_V1_ENDING = ".nii.gz"
_EXAMPLES = {
    "channel_names": '{"0": "CT"}',
    "labels": '{"background": 0, "NAME": 1}',
    "file_ending": '".nii.gz"',
}
_MISSPELT = 0.75
"""Likeness from which an unknown key is taken for a known one."""
_LONGEST_FILE_NAME = 255


def check_content(content: Any, source: object) -> list[Problem]:
    """Return all problems of a parsed dataset.json; ``source`` names it in the messages."""
    if not isinstance(content, Mapping):
        fix = "write an object with the keys channel_names, labels, numTraining, file_ending"
        what = f"expected an object with keys and values, got {shown(content)}"
        return [problem("SK-D003", what, where=source, fix=fix)]
    found = _check_missing(content, source)
    found += _check_unknown(content, (*REQUIRED, *OPTIONAL), HARMLESS, str(source))
    if "channel_names" in content:
        found += _check_channels(content["channel_names"], f"{source}, key channel_names")
    if "file_ending" in content:
        found += _check_ending(content["file_ending"], f"{source}, key file_ending")
    if "labels" in content:
        found += check_labels(content, source)
    found += _check_optional(content, source)
    return found + check_sides(content, _schema(content, found), source)


def _schema(content: Mapping[str, Any], found: Collection[Problem]) -> LabelSchema | None:
    """Return the labels, or None where they are not understood."""
    if "labels" not in content or {one.code for one in found} & LABEL_CODES:
        return None
    return LabelSchema.from_description(content["labels"], content)


def is_v1(content: Mapping[str, Any]) -> bool:
    """Whether a dataset.json names its channels as nnU-Net v1 did."""
    return "modality" in content and "channel_names" not in content


def from_v1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a dataset.json of nnU-Net v1 into one of v2: the keys, and labels written inverted."""
    others = {key: value for key, value in content.items() if key != "modality"}
    turned = {"file_ending": _V1_ENDING, **others, "channel_names": content["modality"]}
    if isinstance(labels := content.get("labels"), Mapping):
        turned["labels"] = turned_round(labels)
    return turned


def _check_missing(content: Mapping[str, Any], source: object) -> list[Problem]:
    missing = [key for key in REQUIRED if key not in content]
    found = []
    if is_v1(content):
        turned = from_v1(content)
        keys = {key: turned[key] for key in REQUIRED if key in turned}
        fix = f"replace modality and labels by: {shown(keys, 2000)[1:-1]}"
        what = "this is the nnU-Net v1 format ('modality')"
        found.append(problem("SK-D007", what, where=source, fix=fix))
        missing = [key for key in missing if key == "labels"]
    unknown = [key for key in content if key not in (*REQUIRED, *OPTIONAL, *HARMLESS)]
    for key in missing:
        fix = f'add "{key}": {_EXAMPLES[key]} with your own values'
        if alike := closest(key, unknown, _MISSPELT):
            fix = f"rename the key {alike!r} to {key!r}"
        found.append(problem("SK-D004", f"the key {key!r} is missing", where=source, fix=fix))
    if "numTraining" not in content:
        fix = 'add "numTraining" with the number of training cases; nnU-Net needs it'
        found.append(problem("SK-D005", "the key 'numTraining' is missing", where=source, fix=fix))
    return found


def _check_unknown(
    keys: Collection[str], known: Collection[str], harmless: Collection[str], where: str
) -> list[Problem]:
    """Tell keys that nobody reads.

    A misspelt "ignore_label" must not be dropped in silence; a note by its author may. Where the
    known key is there too, or begins the name of the other ("dataset_id"), nothing is misspelt.
    """
    absent = [key for key in known if key not in keys]
    found = []
    for key in keys:
        if key in known or key in harmless:
            continue
        alike = closest(key, absent, _MISSPELT)
        misspelt = alike is not None and not key.startswith(f"{alike}_")
        code = "SK-D015" if misspelt else "SK-D006"
        fix = f"{nearest(key, known)} (or delete the key)"
        found.append(problem(code, f"unknown key {shown(key)}", where=where, fix=fix))
    return found


def _check_channels(channels: Any, where: str) -> list[Problem]:
    if isinstance(channels, Mapping):
        names = list(channels.values())
        numbered = sorted(channels) == sorted(map(str, range(len(channels))))
    else:
        names, numbered = channels, False
    named = (
        isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) and name for name in names)
    )
    if numbered and named:
        return []
    fix = 'write {"0": "NAME of the channel in CASE_0000", "1": "NAME of CASE_0001", ...}'
    if named:
        fix = f"write {shown({str(i): name for i, name in enumerate(names)}, 500)}"
    what = f"expected the numbers 0, 1, ... with a name each, got {shown(channels)}"
    return [problem("SK-D008", what, where=where, fix=fix)]


def _check_ending(ending: Any, where: str) -> list[Problem]:
    if not isinstance(ending, str) or ending.lower() not in KNOWN_ENDINGS:
        fix = f"use one of {', '.join(KNOWN_ENDINGS)}"
        if isinstance(ending, str):
            dotted = f".{ending}".lower()
            fix = (
                f'write ".{ending}"' if dotted in KNOWN_ENDINGS else nearest(ending, KNOWN_ENDINGS)
            )
        what = f"file_ending is {shown(ending)}"
        return [problem("SK-D009", what, where=where, fix=fix)]
    if ending.lower() in (".jpg", ".jpeg"):
        what = "JPEG images are lossy; their labels are read from and written to .png files"
        fix = "keep labels as .png, and train on the original images if you have them"
        return [problem("SK-D013", what, where=where, fix=fix)]
    return []


def _check_optional(content: Mapping[str, Any], source: object) -> list[Problem]:
    found = []
    count = content.get("numTraining", 0)
    if not is_int(count) or count < 0:
        fix = "write the number of training cases"
        where = f"{source}, key numTraining"
        found.append(problem("SK-D012", f"numTraining is {shown(count)}", where=where, fix=fix))
    found += _check_reader(content, f"{source}, key overwrite_image_reader_writer")
    if "dataset" in content:
        found += _check_explicit_cases(content["dataset"], f"{source}, key dataset")
    encoding = content.get("label_encoding")
    if encoding is not None and encoding not in ENCODINGS:
        what = f"label_encoding is {shown(encoding)}"
        fix = 'write "multilabel" where structures overlap (bitmasks, masks in one file or one \
file a structure are told apart by themselves), else delete the key'
        where = f"{source}, key label_encoding"
        found.append(problem("SK-D014", what, where=where, fix=fix))
    return found + check_unannotated(content, f"{source}, key unannotated")


def _check_reader(content: Mapping[str, Any], where: str) -> list[Problem]:
    reader, ending = content.get("overwrite_image_reader_writer"), content.get("file_ending")
    try:
        check_reader(reader)
    except UserError as error:
        what, fix = f"unknown image reader {shown(reader)}", f"{error.fix} (or delete the key)"
        return [problem("SK-D010", what, where=where, fix=fix)]
    if reader in (None, "None") or ending not in KNOWN_ENDINGS or ending in READERS[reader][1]:
        return []
    what = f"the reader {reader} does not read {ending} files"
    fix = f"delete the key; {reader} reads {', '.join(READERS[reader][1])}"
    return [problem("SK-D010", what, where=where, fix=fix)]


def _check_explicit_cases(cases: Any, where: str) -> list[Problem]:
    fix = 'write {"CASE": {"images": ["path of channel 0", ...], "label": "path"}, ...}'
    if not isinstance(cases, Mapping) or not cases:
        what = f"expected cases, got {shown(cases)}"
        return [problem("SK-D011", what, where=where, fix=fix)]
    found = []
    for name, entry in cases.items():
        if reason := _reason_against(entry):
            what = f"the case {shown(name)}: {reason}"
            found.append(problem("SK-D011", what, where=where, fix=fix, case=name))
    entries = [entry for entry in cases.values() if isinstance(entry, Mapping)]
    keys = dict.fromkeys(key for entry in entries for key in entry)
    return found + _check_unknown(keys, CASE_KEYS, (), where)


def _reason_against(entry: Any) -> str | None:
    """Say what is wrong with one case of the explicit list."""
    if not isinstance(entry, Mapping):
        return f"expected images and label, got {shown(entry)}"
    if missing := [key for key in ("images", "label") if key not in entry]:
        return f"the key {' and '.join(map(repr, missing))} is missing"
    images = entry["images"]
    if not isinstance(images, list) or not images:
        return f"images is {shown(images)}, not a list of paths"
    paths = [*images, entry["label"], *([entry["mask"]] if "mask" in entry else [])]
    wrong = next((path for path in paths if not _is_path(path)), None)
    return None if all(map(_is_path, paths)) else f"{shown(wrong)} is not a path"


def _is_path(value: Any) -> bool:
    return (
        isinstance(value, str)
        and bool(value)
        and "\0" not in value
        and all(
            len(part.encode("utf-8", "replace")) <= _LONGEST_FILE_NAME for part in value.split("/")
        )
    )
