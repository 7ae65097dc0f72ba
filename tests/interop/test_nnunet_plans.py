"""plans.json as it is read: inheritance, old keys, mistakes."""

import json

import pytest
from nnunet_files import STATISTICS, arch_kwargs, configuration, plans

from segkit.errors import UserError
from segkit.interop.nnunet.plans import read_plans


def written(tmp_path, content):
    path = tmp_path / "plans.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_configuration_inherits_over_several_levels(tmp_path):
    more = {
        "low": {"inherits_from": "3d_fullres", "batch_size": 7},
        "lower": {"inherits_from": "low", "spacing": [3.0, 3.0, 3.0], "batch_dice": True},
    }
    content = plans(configurations={"3d_fullres": configuration(), **more})
    found = read_plans(written(tmp_path, content)).configuration("lower")
    assert (found.batch_size, found.spacing, found.batch_dice) == (7, (3.0, 3.0, 3.0), True)
    assert found.patch_size == (4, 8, 8)


def flat_configuration(**changes):
    """Return a configuration as nnU-Net wrote it before 2.4."""
    flat, kwargs = configuration(), arch_kwargs()
    del flat["architecture"]
    return {
        **flat,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 10,
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
        **changes,
    }


def test_plans_before_nnunet_2_4_are_understood(tmp_path):
    content, kwargs = plans(configurations={"3d_fullres": flat_configuration()}), arch_kwargs()
    old = "foreground_intensity_properties_by_modality"
    content[old] = content.pop("foreground_intensity_properties_per_channel")
    found = read_plans(written(tmp_path, content))
    assert found.intensities(1).mean == STATISTICS["mean"]
    architecture = found.configuration("3d_fullres").architecture
    wanted = {**kwargs, "features_per_stage": [4, 8, 10]}
    del wanted["dropout_op"], wanted["dropout_op_kwargs"]
    assert architecture.arch_kwargs == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected keys and values"),
        (json.dumps(plans()).replace("50.0", "NaN", 1), "NaN is not a JSON number"),
        (json.dumps(plans()).replace("50.0", "1e999", 1), "too large"),
        ({k: v for k, v in plans().items() if k != "plans_name"}, "missing key 'plans_name'"),
        (plans(transpose_forward=[0, 1]), "expected 3 values"),
        (plans(configurations={}), "no configuration '3d_fullres'"),
        (plans(configurations={"3d_fullres": {"inherits_from": "3d_fullres"}}), "inherit"),
        (plans(configurations={"3d_fullres": configuration(batch_size="2")}), "expected int"),
        (plans(configurations={"3d_fullres": configuration(architecture=3)}), "keys and values"),
        (plans(configurations={"3d_fullres": {"batch_size": 2}}), "missing key 'architecture'"),
        (plans(configurations={"3d_fullres": 3}), "expected keys and values"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        read_plans(written(tmp_path, content)).configuration("3d_fullres")
    assert message in error.value.what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"UNet_class_name": "PlainConvUnet"}, "unknown network 'PlainConvUnet'"),
        ({"patch_size": 8}, "patch_size is 8"),
        ({"conv_kernel_sizes": None}, "conv_kernel_sizes is None"),
    ],
)
def test_old_plans_that_cannot_be_read_are_refused(tmp_path, changes, message):
    content = plans(configurations={"3d_fullres": flat_configuration(**changes)})
    with pytest.raises(UserError, match=message):
        read_plans(written(tmp_path, content)).configuration("3d_fullres")


def test_statistics_of_a_channel_may_be_missing(tmp_path):
    content = plans(foreground_intensity_properties_per_channel={"0": STATISTICS})
    with pytest.raises(UserError, match="missing key '1'"):
        read_plans(written(tmp_path, content)).intensities(1)
