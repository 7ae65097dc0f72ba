"""How nnU-Net's plans say that cases are resampled, and the names for it here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkit.errors import UserError
from segkit.interop.nnunet.plans import Configuration
from segkit.planning.plan import Resampling
from segkit.preprocessing.resample import ANISOTROPY_THRESHOLD

_FUNCTION, _NOTHING = "resample_data_or_seg_to_shape", "no_resampling_hack"
_DEFAULTS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": False}
"""What nnU-Net's function takes where its plans say nothing."""
_KINDS = ("data", "seg", "probabilities")
_ORDERS: dict[Resampling, int] = {
    "cubic": 3,
    "linear": 1,
    "cubic_all_axes": 3,
    "linear_all_axes": 1,
}
"""Spline order of images; labels and logits are interpolated linearly in all of them."""


def nnunet_resampling(resampling: Resampling) -> dict[str, Any]:
    """Write a resampling as nnU-Net's plans do: a function and its arguments, three times."""
    content: dict[str, Any] = {}
    for kind in _KINDS:
        content[f"resampling_fn_{kind}"] = _FUNCTION if resampling in _ORDERS else _NOTHING
        given = _arguments(kind, resampling) if resampling in _ORDERS else {}
        content[f"resampling_fn_{kind}_kwargs"] = given
    return content


def resampling_of(configuration: Configuration, where: str) -> Resampling:
    """Find the name of a resampling.

    Raises:
        UserError: it is done otherwise here in each of the ways there are.
    """
    given = {kind: _given(configuration, kind) for kind in _KINDS}
    if all(function == _NOTHING for function, _ in given.values()):
        return "none"
    for resampling in _ORDERS:
        usual = {kind: (_FUNCTION, _arguments(kind, resampling)) for kind in _KINDS}
        if given == usual:
            return resampling
    expected = {kind: (_FUNCTION, _arguments(kind, "cubic")) for kind in _KINDS}
    different = [kind for kind in _KINDS if given[kind] != expected[kind]]
    listing = ", ".join(f"{kind} by {given[kind][0]} {given[kind][1]}" for kind in different)
    fix = "such a model cannot be imported: images are resampled with order 3 or 1, the rest with "
    fix += "order 1, thick slices always apart or never"
    raise UserError(f"resampling {listing} is not known here", where=where, fix=fix)


def _arguments(kind: str, resampling: Resampling) -> dict[str, Any]:
    return {
        "is_seg": kind == "seg",
        "order": _ORDERS[resampling] if kind == "data" else 1,
        "order_z": 0,
        "force_separate_z": False if resampling.endswith("all_axes") else None,
    }


def _given(configuration: Configuration, kind: str) -> tuple[str, Mapping[str, Any]]:
    """Return function and arguments, those that do nothing left out."""
    function: str = getattr(configuration, f"resampling_fn_{kind}")
    given = {**_DEFAULTS, **getattr(configuration, f"resampling_fn_{kind}_kwargs")}
    if given["force_separate_z"] is False:
        given["order_z"] = 0  # nothing is apart that it could be the order of
    if given.get("separate_z_anisotropy_threshold") == ANISOTROPY_THRESHOLD:
        del given["separate_z_anisotropy_threshold"]
    return function, given
