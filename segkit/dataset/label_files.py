"""Label files in every encoding: one integer a voxel, bitmasks, masks in one file or in several.

Whatever lies on disk, ``read_label_map`` gives (1, Z, Y, X) schema indices, or one channel a
structure where structures overlap, and ``write_label_map`` brings them back to the same encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.image_io import (
    KNOWN_ENDINGS,
    read_header,
    read_labels,
    read_masks,
    write_labels,
    write_masks,
)
from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.dataset.structures import (
    decode_bitmask,
    decode_masks,
    encode_mask,
    encode_structures,
)
from segkit.errors import UserError
from segkit.files import atomic_folder
from segkit.types import Volume

LabelLayout = Literal["integers", "masks", "folder"]
"""How labels lie on disk: an integer a voxel (a class or a bitmask); one file with a mask a
structure along its last axis; a folder with one file a structure."""


def label_layout(label: Path, schema: LabelSchema, reader: str | None = None) -> LabelLayout:
    """Tell the layout of a label file (or folder).

    Raises:
        UserError: unreadable.
    """
    if not schema.overlapping:
        return "integers"
    if label.is_dir():
        return "folder"
    return "masks" if len(read_masks(label, reader).array) > 1 else "integers"


def label_path(folder: Path, case_id: str, ending: str, layout: LabelLayout) -> Path:
    """Where the labels of a case lie in a folder: CASE.ext, or the folder CASE."""
    return folder / (case_id if layout == "folder" else f"{case_id}{ending}")


def read_annotation(case: Case, schema: LabelSchema, reader: str | None = None) -> Volume:
    """Read what is known of a training case: its labels, ignored outside its mask.

    Structures that nobody annotated in this case are ignored everywhere.

    Returns:
        (1, Z, Y, X) int16 schema indices, or (S, Z, Y, X) int8 for overlapping structures.

    Raises:
        UserError: as for :func:`read_label_map`, or the mask lies on another grid.
    """
    if case.label is None:
        raise UserError("the case has no label file", where=case.id, fix="add it to labelsTr")
    volume = read_label_map(case.label, schema, reader, unannotated=case.unannotated)
    return apply_mask(volume, case.mask, schema, reader)


def apply_mask(
    volume: Volume, mask: Path | None, schema: LabelSchema, reader: str | None = None
) -> Volume:
    """Ignore what lies outside a region of interest; without a mask all stays.

    Raises:
        UserError: the mask has another shape, or as for :func:`read_roi_mask`.
    """
    if mask is None:
        return volume
    used = read_roi_mask(mask, reader)
    if used.shape != volume.shape:
        what = f"the mask has shape {used.shape} (z, y, x), the labels {volume.shape}"
        raise UserError(what, where=mask, fix="bring the mask to the grid of the image")
    ignore = volume.array.dtype.type(schema.ignore_index)
    indices = np.where(used.array != 0, volume.array, ignore)
    return Volume(array=indices, geometry=volume.geometry)


def read_roi_mask(path: Path, reader: str | None = None) -> Volume:
    """Read a region of interest as raw values, (1, Z, Y, X); nonzero is inside.

    Raises:
        UserError: unreadable, or the file holds several different channels.
    """
    try:
        return read_labels(path, reader)
    except UserError:
        if (count := count_masks(path, reader)) == 1:
            raise
        what = f"a ROI mask has one channel; this file holds {count}"
        fix = "store one mask a case; masks of structures belong into labelsTr"
        raise UserError(what, where=path, fix=fix) from None


def count_masks(path: Path, reader: str | None = None) -> int:
    """Count the channels of a label file; 1 where it cannot be read, which its reader tells."""
    try:
        return len(read_masks(path, reader).array)
    except UserError:
        return 1


def read_label_map(
    path: Path,
    schema: LabelSchema,
    reader: str | None = None,
    *,
    unannotated: Sequence[str] = (),
    undeclared: set[int] | None = None,
) -> Volume:
    """Read labels as schema indices.

    Args:
        path: A label file, or the folder of one file a structure.
        schema: What the values mean.
        reader: Image reader named in dataset.json.
        unannotated: Structures that are ignored everywhere; their files may be missing.
        undeclared: As for :meth:`LabelSchema.encode`; for classes only.

    Returns:
        (1, Z, Y, X) int16 schema indices, or (S, Z, Y, X) int8 for overlapping structures.

    Raises:
        UserError: unreadable, values that are not declared, or a structure without a file.
    """
    if not schema.overlapping:
        volume = read_labels(path, reader)
        indices = schema.encode(volume.array, source=path, undeclared=undeclared)
        return Volume(array=indices, geometry=volume.geometry)
    if path.is_dir():
        return _read_folder(path, schema, reader, unannotated)
    volume = read_masks(path, reader)
    channels = encode_structures(volume.array, schema, source=path)
    channels[[structure.name in unannotated for structure in schema.classes]] = schema.ignore_index
    return Volume(array=channels, geometry=volume.geometry)


def write_label_map(
    path: Path, labels: Volume, schema: LabelSchema, layout: LabelLayout, ending: str
) -> None:
    """Write schema indices in the encoding of the data set; it appears whole or not at all.

    Args:
        path: As :func:`label_path` gives it; a file's ending chooses its format.
        labels: (1 or S, Z, Y, X), and the geometry of the image. Voxels that are invalid or
            ignored are written as 0.
        schema: What the indices mean. Of structures left out the bits are 0 and the masks empty.
        layout: Encoding on disk.
        ending: Of the files in a folder.

    Raises:
        UserError: the format cannot hold these labels, or the place cannot be written; or a folder
            of this name holds something else.
    """
    if layout == "folder":
        _write_folder(path, labels, schema, ending)
        return
    write = write_masks if layout == "masks" else write_labels
    write(path, values_on_disk(labels.array, schema, layout), labels.geometry)


def values_on_disk(indices: np.ndarray, schema: LabelSchema, layout: LabelLayout) -> np.ndarray:
    """Turn schema indices into the values a data set's files hold.

    Args:
        indices: (1 or S, Z, Y, X). Invalid and ignored voxels become 0.
        schema: What the indices mean. Of structures left out the bits are 0 and the masks empty.
        layout: Encoding on disk.

    Returns:
        ``integers``: (Z, Y, X), of the smallest type that holds every declared value; of
        structures, bitmasks. ``masks`` and ``folder``: (D, Z, Y, X) uint8, a mask a structure.
    """
    if layout != "integers":
        return decode_masks(indices, schema)
    if schema.overlapping:
        return decode_bitmask(indices, schema)
    kept = np.where(indices[0] == schema.ignore_index, BACKGROUND, indices[0])
    return schema.decode(kept)


def structure_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Structure name -> its file, of a folder of one file a structure; hidden files are none.

    Several files, such as liver.nii and liver.nii.gz, are a fault that is told where one is read.

    Raises:
        UserError: the folder cannot be read.
    """
    found: dict[str, tuple[Path, ...]] = {}
    try:
        for file in sorted(folder.iterdir()):
            ending = next((end for end in KNOWN_ENDINGS if file.name.lower().endswith(end)), None)
            if ending and file.is_file() and not file.name.startswith("."):
                name = file.name[: -len(ending)]
                found[name] = (*found.get(name, ()), file)
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror}"
        raise UserError(what, where=folder, fix="check its permissions") from None
    return found


def label_sources(case: Case, schema: LabelSchema) -> tuple[Path, ...]:
    """List the files the labels of a case are read from: one, or one a structure of a folder.

    Raises:
        UserError: of a folder, as for :func:`read_label_map`.
    """
    if case.label is None or not (schema.overlapping and case.label.is_dir()):
        return () if case.label is None else (case.label,)
    return tuple(_files_to_read(case.label, schema, case.unannotated).values())


def _read_folder(
    folder: Path, schema: LabelSchema, reader: str | None, unannotated: Sequence[str]
) -> Volume:
    """Read one file a structure; files may be missing for what is not annotated."""
    files = _files_to_read(folder, schema, unannotated)
    grid = read_header(next(iter(files.values())), reader)
    channels = np.full((schema.seg_channels, *grid.shape), schema.ignore_index, dtype=np.int8)
    for channel, name in zip(channels, (each.name for each in schema.classes), strict=True):
        if name in unannotated:
            continue
        mask = read_labels(files[name], reader)
        if mask.shape != grid.shape:
            what = f"shape {mask.shape} (z, y, x) differs from {grid.shape} of another mask"
            raise UserError(what, where=files[name], fix="bring all masks to the image's grid")
        channel[...] = encode_mask(mask.array[0], schema, source=files[name])
    return Volume(array=channels, geometry=grid.geometry)


def _files_to_read(
    folder: Path, schema: LabelSchema, unannotated: Sequence[str]
) -> dict[str, Path]:
    """Structure name -> its only file, of all that are annotated.

    Where none is, of one structure: its file tells the grid.
    """
    found = structure_files(folder)
    wanted = [structure.name for structure in schema.classes if structure.name not in unannotated]
    if missing := [name for name in wanted if name not in found]:
        fix = 'add a mask (empty if the structure is not there), or name it under "unannotated"'
        raise UserError(f"no file for {', '.join(missing)}", where=folder, fix=fix)
    declared = (structure.name for structure in (*schema.classes, *schema.left_out))
    wanted = wanted or [name for name in declared if name in found][:1]
    if not wanted:
        what = "the folder holds no mask of a declared structure"
        raise UserError(what, where=folder, fix="add one, or remove the case")
    if doubled := next((found[name] for name in wanted if len(found[name]) > 1), None):
        what = f"several files for one structure: {', '.join(file.name for file in doubled)}"
        raise UserError(what, where=folder, fix="keep one of them")
    return {name: found[name][0] for name in wanted}


def _write_folder(folder: Path, labels: Volume, schema: LabelSchema, ending: str) -> None:
    """Write one mask a structure, NAME.ext, into a new folder; an older one is replaced."""
    _check_replaceable(folder, schema)
    masks = decode_masks(labels.array, schema)
    bits = (*schema.structure_bits, *schema.left_out_bits)
    with atomic_folder(folder) as draft:
        for structure, bit in zip((*schema.classes, *schema.left_out), bits, strict=True):
            write_labels(draft / f"{structure.name}{ending}", masks[bit], labels.geometry)


def _check_replaceable(folder: Path, schema: LabelSchema) -> None:
    """Refuse to replace what is no folder of this data set's masks."""
    masks = tuple(f"{structure.name}." for structure in (*schema.classes, *schema.left_out))
    if folder.is_dir():
        others = [file.name for file in folder.iterdir() if not file.name.startswith(masks)]
    else:
        others = [folder.name] if folder.exists() else []
    if others:
        what = f"in the place of the masks lies something else: {', '.join(sorted(others)[:5])}"
        raise UserError(what, where=folder, fix="move it away, or choose another output folder")
