"""All problems of a dataset.json in one list, and the mends that are beyond doubt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from segkit.dataset.image_io import KNOWN_ENDINGS, check_reader
from segkit.dataset.label_checks import check_labels, is_int, is_inverted, turned_round
from segkit.dataset.problems import Problem, problem
from segkit.errors import UserError, nearest

REQUIRED = ("channel_names", "labels", "file_ending")
OPTIONAL = (
    "numTraining",
    "regions_class_order",
    "overwrite_image_reader_writer",
    "dataset",
    "ignore_label",
    "label_encoding",
    "mirror_pairs",
    "unannotated",
)
HARMLESS = (
    *("name", "description", "reference", "release", "licence", "license", "converted_by"),
    *("citation", "author", "tensorImageSize", "training", "test", "numTest", "modality"),
)
"""Keys that nnU-Net and its predecessors write and nobody reads."""

_V1_ENDING = ".nii.gz"


def check_content(content: Any, source: object) -> list[Problem]:
    """Return all problems of a parsed dataset.json; ``source`` names it in the messages."""
    if not isinstance(content, Mapping):
        fix = "write an object with the keys channel_names, labels, numTraining, file_ending"
        what = f"expected keys and values, got {type(content).__name__}"
        return [problem("SK-D003", what, where=source, fix=fix)]
    found = _check_keys(content, source)
    if "channel_names" in content:
        found += _check_channels(content["channel_names"], source)
    if "file_ending" in content:
        found += _check_ending(content["file_ending"], source)
    if "labels" in content:
        found += check_labels(content, source)
    return found + _check_optional(content, source)


def mend(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with everything repaired that has only one possible meaning.

    That is nnU-Net v1's ``modality``, inverted labels, and a file ending without its dot.
    """
    mended = dict(content)
    if _is_v1(content):
        mended["channel_names"] = mended.pop("modality")
        mended.setdefault("file_ending", _V1_ENDING)
    labels = mended.get("labels")
    if isinstance(labels, Mapping) and is_inverted(labels):
        mended["labels"] = turned_round(labels)
    ending = mended.get("file_ending")
    if isinstance(ending, str) and f".{ending}".lower() in KNOWN_ENDINGS:
        mended["file_ending"] = f".{ending}"
    return mended


def _is_v1(content: Mapping[str, Any]) -> bool:
    return "modality" in content and "channel_names" not in content


def _check_keys(content: Mapping[str, Any], source: object) -> list[Problem]:
    missing = [key for key in REQUIRED if key not in content]
    found = []
    if _is_v1(content):
        mended = mend(content)
        shown = {key: mended[key] for key in REQUIRED if key in mended}
        fix = f"replace modality and labels by: {json.dumps(shown, ensure_ascii=False)[1:-1]}"
        what = "this is the nnU-Net v1 format ('modality')"
        found.append(problem("SK-D007", what, where=source, fix=fix))
        missing = [key for key in missing if key == "labels"]
    examples = {
        "channel_names": '{"0": "CT"}',
        "labels": '{"background": 0, "NAME": 1}',
        "file_ending": '".nii.gz"',
    }
    for key in missing:
        fix = f'add "{key}": {examples[key]} with your own values'
        found.append(problem("SK-D004", f"the key {key!r} is missing", where=source, fix=fix))
    if "numTraining" not in content:
        fix = 'add "numTraining" with the number of training cases; nnU-Net needs it'
        found.append(problem("SK-D005", "the key 'numTraining' is missing", where=source, fix=fix))
    known = (*REQUIRED, *OPTIONAL)
    for key in content:
        if key not in known and key not in HARMLESS:
            # A misspelt "ignore_label" must not be dropped in silence; a note by its author may.
            code = "SK-D015" if get_close_matches(key, known, cutoff=0.75) else "SK-D006"
            fix = f"{nearest(key, known)} (or delete the key)"
            found.append(problem(code, f"unknown key {key!r}", where=source, fix=fix))
    return found


def _check_channels(channels: Any, source: object) -> list[Problem]:
    where = f"{source}, key channel_names"
    names = channels
    if isinstance(channels, Mapping):
        expected = [str(i) for i in range(len(channels))]
        well = sorted(channels) == sorted(expected)
        names = list(channels.values())
    else:
        well = False
    if well and names and all(isinstance(name, str) and name for name in names):
        return []
    fix = 'write {"0": "NAME of the channel in CASE_0000", "1": "NAME of CASE_0001", ...}'
    if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
        fix = f"write {json.dumps({str(i): name for i, name in enumerate(names)})}"
    what = f"expected the numbers 0, 1, ... with a name each, got {json.dumps(channels)}"
    return [problem("SK-D008", what, where=where, fix=fix)]


def _check_ending(ending: Any, source: object) -> list[Problem]:
    where = f"{source}, key file_ending"
    if not isinstance(ending, str) or ending.lower() not in KNOWN_ENDINGS:
        fix = f"use one of {', '.join(KNOWN_ENDINGS)}"
        if isinstance(ending, str):
            dotted = f".{ending}".lower()
            fix = (
                f'write ".{ending}"' if dotted in KNOWN_ENDINGS else nearest(ending, KNOWN_ENDINGS)
            )
        return [problem("SK-D009", f"file_ending is {ending!r}", where=where, fix=fix)]
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
        found.append(problem("SK-D012", f"numTraining is {count!r}", where=where, fix=fix))
    try:
        check_reader(content.get("overwrite_image_reader_writer"))
    except UserError as error:
        where = f"{source}, key {error.where}"
        found.append(
            problem("SK-D010", error.what, where=where, fix=f"{error.fix} (or delete the key)")
        )
    if "dataset" in content:
        found += _check_explicit_cases(content["dataset"], f"{source}, key dataset")
    if "label_encoding" in content:
        encoding, fix = content["label_encoding"], "delete the key; store one integer a voxel"
        what = f"unknown label_encoding {encoding!r}"
        if encoding == "multilabel":
            what = "overlapping structures ('label_encoding': 'multilabel') are not supported yet"
            fix = "declare nested structures as regions, or delete the key"
        where = f"{source}, key label_encoding"
        found.append(problem("SK-D014", what, where=where, fix=fix))
    return found


def _check_explicit_cases(cases: Any, where: str) -> list[Problem]:
    fix = 'write {"CASE": {"images": ["path of channel 0", ...], "label": "path"}, ...}'
    if not isinstance(cases, Mapping) or not cases:
        what = f"expected cases, got {type(cases).__name__}"
        return [problem("SK-D011", what, where=where, fix=fix)]
    return [
        problem("SK-D011", f"the case {name!r} is {entry!r}", where=where, fix=fix, case=name)
        for name, entry in cases.items()
        if not _is_case(entry)
    ]


def _is_case(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or set(entry) != {"images", "label"}:
        return False
    images = entry["images"]
    paths = [*images, entry["label"]] if isinstance(images, list) and images else [None]
    return all(isinstance(path, str) and path for path in paths)
