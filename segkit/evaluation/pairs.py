"""Which prediction belongs to which reference, and to which mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segkit.dataset.cases import find_masks
from segkit.dataset.description import DatasetDescription
from segkit.dataset.label_files import label_path, structure_files
from segkit.dataset.problems import raise_errors
from segkit.errors import UserError, listing
from segkit.evaluation.case import CasePair


def pair_files(
    pred_dirs: Sequence[Path],
    ref_dir: Path,
    description: DatasetDescription,
    *,
    masks_dir: Path | None = None,
) -> tuple[list[CasePair], tuple[str, ...]]:
    """Match predictions and references by case name; other files are left alone.

    A case is a file CASE.ext, or for overlapping structures a folder CASE of one file a structure;
    the two sides may differ in this.

    Args:
        pred_dirs: Hold the predictions, each case in one of them.
        ref_dir: Holds the references.
        description: The data set.
        masks_dir: Holds CASE.ext for cases of which only a part is to be evaluated. None takes the
            data set's own where ``ref_dir`` is its labelsTr; its cases need not have one.

    Returns:
        The pairs, sorted by case, and the cases that have a reference and no prediction.

    Raises:
        UserError: no such folder, one without a prediction, a case that lies there twice,
            predictions without a reference, or a ``masks_dir`` in which none belongs to one of the
            cases.
    """
    ending = description.label_ending
    predictions = _find_predictions(pred_dirs, description)
    references = find_label_maps(ref_dir, description)
    if unmatched := sorted(predictions.keys() - references.keys()):
        raise UserError(
            f"{len(unmatched)} of {len(predictions)} predictions have no reference: "
            f"{', '.join(unmatched)}",
            where=ref_dir,
            fix=f"add CASE{ending} to the references, or take the predictions away",
        )
    masks = own_masks(ref_dir, description) if masks_dir is None else _files(masks_dir, ending)
    pairs = [
        CasePair(
            case=case,
            pred=path,
            ref=references[case],
            mask=masks.get(case),
            unannotated=description.unannotated.get(case, ()),
        )
        for case, path in sorted(predictions.items())
    ]
    if masks_dir is not None and not any(pair.mask for pair in pairs):
        fix = f"name the masks CASE{ending}, as the predictions"
        raise UserError("no mask belongs to a predicted case", where=masks_dir, fix=fix)
    return pairs, tuple(sorted(references.keys() - predictions.keys()))


def _find_predictions(folders: Sequence[Path], description: DatasetDescription) -> dict[str, Path]:
    """Map case to its prediction, in whichever folder it lies."""
    joined: dict[str, Path] = {}
    for folder in folders:
        found = find_label_maps(folder, description)
        if not found:
            ending = description.label_ending
            fix = f"give a folder with files named CASE{ending}"
            raise UserError(f"no prediction ends in {ending}", where=folder, fix=fix)
        if twice := sorted(found.keys() & joined.keys()):
            where = f"{joined[twice[0]].parent} and {folder}"
            what = f"predicted in two folders: {listing(twice)}"
            raise UserError(what, where=where, fix="give folders of different cases")
        joined |= found
    return joined


def find_label_map(folder: Path, case: str, description: DatasetDescription) -> Path:
    """Return where the labels of a case lie in a folder: CASE.ext, or the folder CASE.

    Raises:
        UserError: both are there.
    """
    file, subfolder = (
        label_path(folder, case, description.label_ending, layout)
        for layout in ("integers", "folder")
    )
    if not (description.labels.overlapping and subfolder.is_dir()):
        return file
    _refuse_doubles(folder, [case] if file.is_file() else [])
    return subfolder


def grid_file(folder: Path, case: str, description: DatasetDescription) -> Path:
    """Return a file whose grid is that of a case's labels: CASE.ext, or one of the folder CASE.

    Raises:
        UserError: neither is there, or both.
    """
    return file_of(find_label_map(folder, case, description))


def file_of(path: Path) -> Path:
    """Return a label file itself, or of a folder of structures one file in it.

    Raises:
        UserError: there is none.
    """
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = [file for named in structure_files(path).values() for file in named]
    if not files:
        fix = "predict the case again, or take its other files away"
        raise UserError("there is no label map", where=path, fix=fix)
    return files[0]


def own_masks(ref_dir: Path, description: DatasetDescription) -> dict[str, Path]:
    """Return case -> region of interest, as in training, where the references are labelsTr.

    Raises:
        UserError: the masks cannot be found; warnings are logged.
    """
    if ref_dir.resolve() != (description.folder / "labelsTr").resolve():
        return {}
    masks, problems = find_masks(description)
    raise_errors(problems, where=description.file)
    return masks


def find_label_maps(folder: Path, description: DatasetDescription) -> dict[str, Path]:
    """Map case to its file or, for structures, folder; hidden ones are none.

    Raises:
        UserError: no such folder, or a case that lies there twice.
    """
    files = _files(folder, description.label_ending)
    if not description.labels.overlapping:
        return files
    names = {structure.name for structure in description.labels.classes}
    folders = {
        path.name: path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and names & structure_files(path).keys()
    }
    _refuse_doubles(folder, sorted(files.keys() & folders.keys()))
    return files | folders


def _refuse_doubles(folder: Path, cases: Sequence[str]) -> None:
    if cases:
        what = f"there as a file and as a folder: {', '.join(cases)}"
        raise UserError(what, where=folder, fix="take one of the two away")


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Map case to file; hidden files are none."""
    if not folder.is_dir():
        raise UserError("no such folder", where=folder, fix="check the path")
    return {
        path.name.removesuffix(ending): path
        for path in folder.iterdir()
        if path.name.endswith(ending) and not path.name.startswith(".") and path.is_file()
    }
