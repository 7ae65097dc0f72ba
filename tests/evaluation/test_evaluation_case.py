import numpy as np

from segkit.evaluation.case import geometry_warnings
from segkit.types import Geometry

GEOMETRY = Geometry(spacing_mm=(2.0, 0.5, 1.0))


def test_geometry_warnings_name_what_differs():
    moved = Geometry(spacing_mm=(2.0, 0.5, 1.001), origin=(0.0, 0.0, 1.0))
    spacing, origin = geometry_warnings("x", GEOMETRY, moved)
    assert spacing == "x: spacing_mm differs: reference (2, 0.5, 1), prediction (2, 0.5, 1.001)"
    assert origin.startswith("x: origin differs")


def test_rounding_of_file_formats_is_no_mismatch():
    ref = Geometry(spacing_mm=(0.7, 0.7, 0.7), origin=(123.456789, -500.1, 800.2))
    rounded = Geometry(
        spacing_mm=tuple(float(np.float32(s)) for s in ref.spacing_mm),
        origin=tuple(float(np.float32(o)) for o in ref.origin),
        direction=tuple(d + 1e-6 for d in ref.direction),
    )
    assert geometry_warnings("x", ref, rounded) == ()
