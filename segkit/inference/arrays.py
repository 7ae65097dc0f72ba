"""Images handed over as arrays: what their axes mean to a model, and where they lie in space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from segkit.dataset.orientation import direction_of
from segkit.errors import UserError
from segkit.inference.model import Model
from segkit.types import FAR_APART, Geometry, Spacing, Volume

_NUMBERS = "biuf"
"""Kinds of array types that hold real numbers."""


def image_of_array(
    image: np.ndarray,
    model: Model,
    spacing_mm: Sequence[float] | None = None,
    orientation: str | None = None,
) -> Volume:
    """Take an array for an image of a model.

    Args:
        image: Of any real type. A volume (C, Z, Y, X), or (Z, Y, X) for a model of one channel.
            2D models also take a plane: (C, Y, X), or (Y, X) for one channel. Three axes are a
            volume where the model has one channel and was trained on volumes, else a plane.
        model: What is to predict it.
        spacing_mm: (z, y, x), of a plane (y, x). None is for models that were trained on planes,
            whose pixels are 1 mm.
        orientation: Code of the directions in which the x, y and z axis run, such as ``"LPS"``;
            None: as the model's training cases.

    Returns:
        (C, Z, Y, X) float32; of a plane with Z = 1 and ``stored_ndim`` 2.

    Raises:
        UserError: an array that is no such image, or no such spacing or orientation.
    """
    image = np.asarray(image)
    if image.dtype.kind not in _NUMBERS or not image.size:
        what = f"expected an array of numbers, got shape {image.shape} of {image.dtype}"
        raise UserError(what, fix="give a numpy array of integers or floats")
    planar = _is_plane(image, model)
    channels = _with_channels(image, planar, model)
    geometry = Geometry(
        spacing_mm=_spacing(spacing_mm, planar, model),
        direction=direction_of(orientation or model.plan.orientation or "LPS"),
        stored_ndim=2 if planar else 3,
    )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return Volume(array=np.ascontiguousarray(channels, dtype=np.float32), geometry=geometry)


def _is_plane(image: np.ndarray, model: Model) -> bool:
    """Tell planes from volumes by the number of axes.

    Raises:
        UserError: neither fits the model.
    """
    several = len(model.plan.channel_names) > 1
    volumes = model.plan.orientation is not None
    # Planes of a model of volumes lie across its first planned axis, which has to be z.
    planes = model.configuration.ndim == 2 and model.plan.transpose_forward[0] == 0
    if image.ndim == 4 or (image.ndim == 3 and volumes and not several):
        return False
    if planes and (image.ndim == 3 or (image.ndim == 2 and not several)):
        return True
    accepted = ["(C, Z, Y, X)"] + ["(Z, Y, X)"] * (volumes and not several)
    accepted += (["(C, Y, X)"] if several or not volumes else []) * planes
    accepted += ["(Y, X)"] * (planes and not several)
    what = f"an image of shape {image.shape} does not fit the model {model.folder.name}"
    raise UserError(what, fix=f"give {' or '.join(accepted)}; {_channels(model)}")


def _with_channels(image: np.ndarray, planar: bool, model: Model) -> np.ndarray:
    """Return (C, Z, Y, X).

    Raises:
        UserError: another number of channels than the model's.
    """
    expected = len(model.plan.channel_names)
    spatial = 2 if planar else 3
    image = image if image.ndim > spatial else image[None]
    if len(image) != expected:
        what = f"the image has {len(image)} channels (its first axis), the model {expected}"
        raise UserError(what, where=f"shape {image.shape}", fix=f"give {_channels(model)}")
    return image[:, None] if planar else image


def _channels(model: Model) -> str:
    names = model.plan.channel_names
    return f"{len(names)} channel{'s' * (len(names) > 1)}: {', '.join(names)}"


def _spacing(spacing_mm: Sequence[float] | None, planar: bool, model: Model) -> Spacing:
    """Return (z, y, x) in mm."""
    if spacing_mm is None:
        if not planar or model.plan.orientation is not None:
            fix = f"give spacing_mm={'(y, x)' if planar else '(z, y, x)'}, in mm"
            raise UserError("the spacing of the image is missing", fix=fix)
        spacing_mm = (1.0, 1.0)
    values = _numbers(spacing_mm)
    if planar and len(values) == 2:
        values = (FAR_APART * max(values), *values)
    if len(values) != 3 or not all(0 < value < np.inf for value in values):
        what = f"the spacing has to be {2 if planar else 3} positive numbers, got {spacing_mm}"
        raise UserError(what, fix="give the distances between voxel centres in mm, as (z, y, x)")
    return values


def _numbers(given: object) -> Spacing:
    """Return a sequence of numbers as floats; nothing where it is none (text, a single number)."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return ()
    try:
        return tuple(float(value) for value in given)
    except (TypeError, ValueError):
        return ()
