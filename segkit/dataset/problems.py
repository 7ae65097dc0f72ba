"""What can be wrong with a data set: one stable code a kind of problem, all in one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from segkit.errors import UserError
from segkit.runtime import log

Severity = Literal["error", "warning"]

CODES: dict[str, tuple[Severity, str]] = {
    # dataset.json as a whole
    "SK-D001": ("error", "dataset.json is missing or cannot be read"),
    "SK-D002": ("error", "a key of dataset.json occurs twice"),
    "SK-D003": ("error", "dataset.json does not hold keys and values"),
    "SK-D004": ("error", "a required key is missing"),
    "SK-D005": ("warning", "numTraining is missing"),
    "SK-D006": ("warning", "an unknown key, which has no effect"),
    "SK-D007": ("error", "dataset.json is written in the nnU-Net v1 format"),
    "SK-D008": ("error", "channel_names is malformed"),
    "SK-D009": ("error", "file_ending is malformed or not supported"),
    "SK-D010": ("error", "overwrite_image_reader_writer names no known reader"),
    "SK-D011": ("error", "the explicit case list ('dataset') is malformed"),
    "SK-D012": ("warning", "numTraining is not a count"),
    "SK-D013": ("warning", "JPEG images are lossy; labels are .png"),
    "SK-D014": ("error", "label_encoding is unknown"),
    "SK-D015": ("error", "a key that looks like a misspelt one"),
    "SK-D016": ("error", "dataset.json is not valid JSON"),
    # labels, regions, ignore
    "SK-D020": ("error", "labels declares no class"),
    "SK-D021": ("error", "background is not declared"),
    "SK-D022": ("error", "background is not 0"),
    "SK-D023": ("error", "labels is written the other way round"),
    "SK-D024": ("error", "a label value is not an integer"),
    "SK-D025": ("error", "a label value is negative"),
    "SK-D026": ("error", "two labels share one meaning"),
    "SK-D027": ("error", "a label value is reserved or out of range"),
    "SK-D028": ("error", "the ignore label is malformed or in conflict with a class"),
    "SK-D029": ("error", "background is a list"),
    "SK-D030": ("error", "regions without regions_class_order"),
    "SK-D031": ("error", "regions_class_order has the wrong length"),
    "SK-D032": ("error", "regions_class_order holds a value that no label declares"),
    "SK-D033": ("error", "a region is malformed"),
    "SK-D034": ("warning", "regions_class_order has no effect without regions"),
    "SK-D035": ("error", "a region is painted over by the region around it"),
    "SK-D036": ("error", "a region is written as a class it does not hold"),
    "SK-D037": ("error", "background is not a number"),
    "SK-D038": ("warning", "a region holds a value that no other label knows"),
    # structures that overlap; names
    "SK-D039": ("error", "regions among structures that overlap"),
    "SK-D040": ("error", "the values of overlapping structures are neither bits nor numbers"),
    "SK-D041": ("error", "too many classes, or more structures than a bitmask holds"),
    "SK-D042": ("error", "a label name is empty"),
    "SK-D043": ("warning", "label names that differ in capitals or spaces only"),
    "SK-D044": ("error", "an overlapping structure's name cannot be a file name"),
    "SK-D045": ("error", "the list of unannotated structures is malformed"),
    "SK-D046": ("error", "an unannotated structure is not declared"),
    "SK-D047": ("error", "unannotated structures without overlapping ones"),
    "SK-D049": ("warning", "a region is written as a class of a region inside it"),
    # left and right
    "SK-D050": ("error", "mirror_pairs is malformed"),
    "SK-D051": ("error", "mirror_pairs names a label that does not exist"),
    "SK-D052": ("error", "a label is its own mirror image, or has several"),
    "SK-D053": ("error", "mirror_pairs names a region of several classes"),
    "SK-D054": ("error", "the mirror image of a region is no region"),
    "SK-D055": ("error", "left_right_axis is malformed"),
    "SK-D056": ("warning", "labels look like left and right, and nothing is said of them"),
    "SK-D057": ("error", "nobody says which axis runs between left and right"),
    # files
    "SK-F001": ("error", "a folder is missing"),
    "SK-F002": ("error", "no training case was found"),
    "SK-F003": ("error", "an image file name has no channel number"),
    "SK-F004": ("error", "a channel file is missing"),
    "SK-F005": ("error", "a channel file is surplus"),
    "SK-F006": ("error", "an image has no label file"),
    "SK-F007": ("warning", "a label file has no image"),
    "SK-F008": ("warning", "numTraining differs from the number of cases"),
    "SK-F009": ("warning", "files with another ending are not used"),
    "SK-F010": ("error", "a file cannot be read"),
    "SK-F011": ("error", "a listed file does not exist"),
    "SK-F012": ("error", "the files hold another number of channels than declared"),
    "SK-F013": ("error", "two files claim to be the same channel of one case"),
    "SK-F014": ("error", "a file has another ending than the model reads"),
    "SK-F015": ("error", "a case name that cannot be used"),
    "SK-F016": ("warning", "a case name that breaks in shells or on other systems"),
    "SK-F017": ("warning", "case names that differ only in upper and lower case"),
    "SK-F018": ("warning", "a file name with the channel number twice"),
    "SK-F019": ("error", "a case whose files would overwrite another case's"),
    "SK-F020": ("warning", "a mask has no image"),
    "SK-F021": ("error", "a case has a label file and a label folder"),
    "SK-F022": ("error", "a structure has no file in a label folder"),
    "SK-F023": ("warning", "a label folder holds files that are not used"),
    "SK-F024": ("warning", "the labels are stored in several ways"),
    "SK-F025": ("error", "unannotated names a case that does not exist"),
    "SK-F026": ("error", "one integer a voxel cannot hold the labels"),
    "SK-F027": ("warning", "an explicit case list does not use the masks in masksTr"),
    "SK-F028": ("error", "a structure has several files in a label folder"),
    "SK-F029": ("error", "the splits are malformed"),
    "SK-F030": ("error", "the splits name cases that do not exist"),
    "SK-F031": ("warning", "the splits leave cases out"),
    "SK-F032": ("warning", "a case validates several folds"),
    # geometry
    "SK-G001": ("error", "shapes differ within a case"),
    "SK-G002": ("error", "spacings differ within a case"),
    "SK-G003": ("warning", "origins differ within a case"),
    "SK-G004": ("warning", "directions differ within a case"),
    "SK-G005": ("warning", "the cases are stored in several orientations"),
    "SK-G006": ("error", "a file has another number of dimensions than expected"),
    "SK-G007": ("warning", "a NIfTI header that gives two different places (sform, qform)"),
    "SK-G008": ("error", "a file is stored in another orientation than its image"),
    # voxels
    "SK-V001": ("error", "NaN or infinity among the voxels"),
    "SK-V002": ("error", "fractional label values"),
    "SK-V003": ("error", "label values that dataset.json does not declare"),
    "SK-V004": ("warning", "a label file holds no foreground"),
    "SK-V005": ("warning", "a constant image"),
    "SK-V006": ("warning", "a declared class never occurs"),
    "SK-V007": ("warning", "label values were not checked"),
    "SK-V008": ("warning", "-1 in a label file without an announced ignore label"),
    "SK-V009": ("warning", "labels lie outside what the image shows, on zeros in every channel"),
    "SK-V010": ("warning", "cases have the same image"),
    "SK-V011": ("warning", "no voxel of a case is annotated"),
    "SK-V012": ("warning", "a structure named as not annotated has voxels"),
    "SK-V013": ("warning", "label files read as bitmasks look like one class a voxel"),
}
"""Code -> (severity, meaning). Codes are never reused for another meaning."""

LABEL_CODES = frozenset(
    {"SK-D014", "SK-D020", "SK-D021", "SK-D022", "SK-D023", "SK-D024", "SK-D025", "SK-D026"}
    | {"SK-D027", "SK-D028", "SK-D029", "SK-D030", "SK-D031", "SK-D032", "SK-D033", "SK-D035"}
    | {"SK-D036", "SK-D037", "SK-D039", "SK-D040", "SK-D041"}
)
"""Errors that leave the meaning of label values undecided."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: what, where, and how to mend it."""

    code: str
    severity: Severity
    message: str
    where: str
    fix: str
    case: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the public form of a problem."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "where": self.where,
            "case": self.case,
            "remedy": self.fix,
        }


def problem(
    code: str, message: str, *, where: object, fix: str, case: str | None = None
) -> Problem:
    """Make a problem; its severity comes from the table."""
    return Problem(
        code=code,
        severity=CODES[code][0],
        message=_printable(message),
        where=_printable(str(where)),
        fix=_printable(fix),
        case=None if case is None else _printable(case),
    )


def _printable(text: str) -> str:
    """Escape what no terminal and no JSON file can hold: bytes of a file name that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def raise_errors(problems: Iterable[Problem], *, where: object) -> None:
    """Log the warnings, then raise all errors as one.

    Raises:
        UserError: there is at least one error; it lists every one of them.
    """
    problems = list(problems)
    for found in problems:
        if found.severity == "warning":
            log.warning("[%s] %s (%s)", found.code, found.message, found.where)
    errors = [found for found in problems if found.severity == "error"]
    if len(errors) == 1:
        only = errors[0]
        raise UserError(f"[{only.code}] {only.message}", where=only.where, fix=only.fix)
    if errors:
        lines = (f"[{e.code}] {e.message}\n  where: {e.where}\n  fix:   {e.fix}" for e in errors)
        what = f"{len(errors)} problems\n" + "\n".join(lines)
        raise UserError(
            what, where=where, fix="mend these; 'segkit validate' checks all the rest too"
        )
