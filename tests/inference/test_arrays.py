"""What the axes of an array mean, and what is no image of a model."""

import numpy as np
import pytest
from tiny import tiny_configuration, tiny_plan, write_description

from segkit.errors import UserError
from segkit.inference.arrays import image_of_array
from segkit.inference.model import Model, ModelSettings

VOLUME, STACK = (4, 5, 6), (2, 4, 5, 6)


def make_model(tmp_path, ndim=3, channels=1, orientation="RAS", transpose=(0, 1, 2)):
    configuration = tiny_configuration(ndim, channels)
    plan = tiny_plan(
        configuration,
        [f"c{i}" for i in range(channels)],
        orientation=orientation,
        transpose_forward=transpose,
    )
    name = "2d" if ndim == 2 else "3d_fullres"
    settings = ModelSettings(
        configuration=name,
        recipe="default",
        patch_size=configuration.patch_size,
        mirror_axes=(),
    )
    description = write_description(
        tmp_path, channel_names={str(i): f"c{i}" for i in range(channels)}
    )
    return Model(folder=tmp_path, settings=settings, plan=plan, description=description)


@pytest.mark.parametrize(
    ("ndim", "channels", "orientation", "shape", "expected", "stored_ndim"),
    [
        (3, 1, "RAS", (4, 5, 6), (1, 4, 5, 6), 3),
        (3, 1, "RAS", (1, 4, 5, 6), (1, 4, 5, 6), 3),
        (3, 2, "RAS", (2, 4, 5, 6), (2, 4, 5, 6), 3),
        (2, 1, "RAS", (4, 5, 6), (1, 4, 5, 6), 3),
        (2, 1, "RAS", (5, 6), (1, 1, 5, 6), 2),
        (2, 2, "RAS", (2, 5, 6), (2, 1, 5, 6), 2),
        (2, 2, "RAS", (2, 4, 5, 6), (2, 4, 5, 6), 3),
        (2, 1, None, (5, 6), (1, 1, 5, 6), 2),
        (2, 1, None, (1, 5, 6), (1, 1, 5, 6), 2),
        (2, 3, None, (3, 5, 6), (3, 1, 5, 6), 2),
        (2, 1, None, (1, 1, 5, 6), (1, 1, 5, 6), 3),
    ],
)
def test_axes(tmp_path, ndim, channels, orientation, shape, expected, stored_ndim):
    model = make_model(tmp_path, ndim, channels, orientation)
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    volume = image_of_array(image, model, (3, 2, 1))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, image.reshape(expected))
    assert volume.geometry.spacing_mm == (3, 2, 1)
    assert volume.geometry.stored_ndim == stored_ndim
    assert volume.geometry.orientation() == (orientation or "LPS")


def test_planes_lie_far_apart_and_pixels_of_pictures_are_1_mm(tmp_path):
    of_volumes, of_planes = make_model(tmp_path, 2), make_model(tmp_path, 2, orientation=None)
    plane = np.ones((5, 6))
    for model, given, expected in [
        (of_volumes, (0.5, 0.25), (0.5 * 999, 0.5, 0.25)),
        (of_planes, (0.5, 2), (2 * 999, 0.5, 2)),
        (of_planes, None, (999, 1, 1)),
    ]:
        assert image_of_array(plane, model, given).geometry.spacing_mm == expected
    with pytest.raises(UserError, match=r"spacing.*missing\n.*\(y, x\)"):
        image_of_array(plane, of_volumes)
    with pytest.raises(UserError, match=r"spacing.*missing\n.*\(z, y, x\)"):
        image_of_array(np.ones(VOLUME), of_volumes)


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR", "SLA"])
def test_an_orientation_may_be_given(tmp_path, code):
    volume = image_of_array(np.ones(VOLUME), make_model(tmp_path), (1, 1, 1), code)
    assert volume.geometry.orientation() == code


@pytest.mark.parametrize(
    ("ndim", "channels", "transpose", "image", "message"),
    [
        (3, 1, (0, 1, 2), np.ones((5, 6)), r"\(C, Z, Y, X\) or \(Z, Y, X\); 1 channel: c0"),
        (3, 2, (0, 1, 2), np.ones((2, 5, 6)), r"give \(C, Z, Y, X\); 2 channels: c0, c1"),
        (2, 2, (0, 1, 2), np.ones((5, 6)), r"\(C, Z, Y, X\) or \(C, Y, X\); 2"),
        (2, 1, (2, 0, 1), np.ones((5, 6)), r"\(C, Z, Y, X\) or \(Z, Y, X\); 1"),
        (3, 1, (0, 1, 2), np.ones((1, 1, 4, 5, 6)), "does not fit"),
        (3, 1, (0, 1, 2), np.ones(()), "does not fit"),
        (3, 2, (0, 1, 2), np.ones((3, 4, 5, 6)), "has 3 channels .* the model 2"),
        (2, 2, (0, 1, 2), np.ones((6, 5, 4)), "has 6 channels"),
        (3, 1, (0, 1, 2), np.ones((0, 5, 6)), r"shape \(0, 5, 6\)"),
        (3, 1, (0, 1, 2), np.ones(VOLUME, complex), "complex128"),
        (3, 1, (0, 1, 2), [["a"]], "array of numbers"),
        (3, 1, (0, 1, 2), None, "array of numbers"),
    ],
)
def test_what_is_no_image_of_the_model(tmp_path, ndim, channels, transpose, image, message):
    model = make_model(tmp_path, ndim, channels, transpose=transpose)
    with pytest.raises(UserError, match=message):
        image_of_array(image, model, (1, 1, 1))


@pytest.mark.parametrize(
    "spacing",
    [(1, 1), (1, 1, 1, 1), (1, 0, 1), (1, -1, 1), (1, 1, np.nan), 1.0, "111", (1, 1, None)],
)
def test_what_is_no_spacing(tmp_path, spacing):
    with pytest.raises(UserError, match="positive numbers"):
        image_of_array(np.ones(VOLUME), make_model(tmp_path), spacing)
    with pytest.raises(UserError, match="not an orientation"):
        image_of_array(np.ones(VOLUME), make_model(tmp_path), (1, 1, 1), "RAX")
