"""Predictions as DICOM Segmentation objects, beside the series they belong to (extra ``dicom``)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import segkit
from segkit.dataset.image_io.dicom_io import slice_files
from segkit.dataset.labels import LabelSchema
from segkit.dataset.structures import PRESENT
from segkit.errors import UserError
from segkit.files import atomic_write

_SCHEME = "99SEGKIT"
"""Of codes that are the data set's own names; 99 begins the name of every private scheme."""


def write_dicom_seg(path: Path, indices: np.ndarray, schema: LabelSchema, series: Path) -> bool:
    """Write one segment a class (or structure) that has voxels, referring to a series.

    A DICOM Segmentation holds a segment at least. Where there is none to write, an older file is
    deleted, so that it is not taken for what was found now.

    Args:
        path: The file, .dcm.
        indices: Schema indices on the grid of the series: (1, Z, Y, X), or (S, Z, Y, X) for
            structures, which may overlap.
        schema: What they mean.
        series: Folder of the DICOM series.

    Returns:
        Whether there was a segment to write.

    Raises:
        UserError: highdicom is not installed, or the series lacks what the object needs.
    """
    highdicom, pydicom = _import()
    names = [one.name for one in schema.classes]
    masks = _masks(indices, schema)
    found = [number for number, mask in enumerate(masks) if mask.any()]
    if not found:
        path.unlink(missing_ok=True)
        return False
    sources = [pydicom.dcmread(file) for file in slice_files(series)]
    pixels = np.stack([masks[number] for number in found], axis=-1).astype(np.uint8)
    try:
        made = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=pixels,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(highdicom, names[number], place)
                for place, number in enumerate(found, start=1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=900,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="segkit",
            manufacturer_model_name="segkit",
            software_versions=segkit.__version__,
            device_serial_number="0",
            series_description="segkit segmentation",
        )
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        what = f"the series does not allow a DICOM segmentation: {error}"
        raise UserError(what, where=series, fix="export it with all its attributes") from None
    content = io.BytesIO()
    made.save_as(content)
    with atomic_write(path) as stream:
        stream.write(content.getvalue())
    return True


def has_segments(indices: np.ndarray, schema: LabelSchema) -> bool:
    """Whether a DICOM Segmentation can be written of these; see :func:`write_dicom_seg`."""
    return any(mask.any() for mask in _masks(indices, schema))


def _masks(indices: np.ndarray, schema: LabelSchema) -> Sequence[np.ndarray]:
    """One (Z, Y, X) bool a class or structure, in declaration order."""
    if schema.overlapping:
        return [channel == PRESENT for channel in indices]
    return [indices[0] == number for number in range(1, schema.num_classes)]


def _describe(highdicom: Any, name: str, number: int) -> Any:
    coded = highdicom.sr.CodedConcept
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=coded("85756007", "SCT", "Tissue"),
        segmented_property_type=coded(name[:16], _SCHEME, name[:64]),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="segkit",
            version=segkit.__version__,
            family=coded("123109", "DCM", "Artificial Intelligence"),
        ),
    )


def check_installed() -> None:
    """Check that DICOM Segmentations can be written.

    Raises:
        UserError: highdicom is not installed.
    """
    _import()


def _import() -> tuple[Any, Any]:
    try:
        import highdicom
        import pydicom
    except ImportError:
        fix = "pip install 'segkit[dicom]'"
        raise UserError("highdicom is not installed", where="--dicom-seg", fix=fix) from None
    return highdicom, pydicom
