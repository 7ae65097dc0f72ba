"""nnU-Net's plans become plans that preprocess and predict alike."""

import json

import pytest
from nnunet_files import KERNELS, STATISTICS, configuration, plans

from segkit.errors import UserError
from segkit.interop.nnunet.planning import plan_from_nnunet
from segkit.interop.nnunet.plans import read_plans

CHANNELS = ("CT", "T2")


def converted(tmp_path, content=None, names=("3d_fullres",)):
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(content or plans()))
    return plan_from_nnunet(read_plans(path), CHANNELS, names)


def changed(**changes):
    return plans(configurations={"3d_fullres": configuration(**changes)})


def network(**changes):
    content = changed()
    content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= changes
    return content


def test_every_number_is_taken_over(tmp_path):
    plan = converted(tmp_path, plans(transpose_forward=[1, 0, 2]))
    found = plan.configuration("3d_fullres")
    assert (plan.planner, plan.dataset) == ("nnUNetPlans", "Dataset007_Toy")
    assert (plan.transpose_forward, plan.orientation) == ((1, 0, 2), None)
    assert plan.intensities[1].percentile_99_5 == STATISTICS["percentile_99_5"]
    assert (plan.voxel_rules, plan.force_invalid_to_background) == ("nnunet", False)
    assert (found.spacing_mm, found.patch_size, found.batch_size) == ((2, 1, 1), (4, 8, 8), 2)
    assert (found.normalization, found.normalize_inside_mask) == (("ct", "zscore"), (False, True))
    assert found.median_shape == (6, 12, 12)
    assert found.network.kind == "plain"


def test_only_zscore_looks_at_the_mask(tmp_path):
    plan = converted(tmp_path, changed(use_mask_for_norm=[True, True]))
    assert plan.configuration("3d_fullres").normalize_inside_mask == (False, True)


def test_readers_that_reorient_set_the_orientation(tmp_path):
    plan = converted(tmp_path, plans(image_reader_writer="NibabelIOWithReorient"))
    assert plan.orientation == "RAS"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plans(label_manager="Mine"), "the label manager 'Mine'"),
        (plans(transpose_forward=[0, 1, 1]), "transpose_forward"),
        (plans(plans_name="../../evil"), "cannot be a file name"),
        (plans(plans_name=".hidden"), "cannot be a file name"),
        (changed(patch_size=[4, 0, 8]), "patch_size is [4, 0, 8]"),
        (changed(patch_size=[8]), "patch_size is [8]"),
        (changed(spacing=[1.0, 1.0]), "spacing_mm"),
        (changed(spacing=[1.0, 1.0, -1.0]), "must be positive, got -1.0"),
        (changed(batch_size=0), "batch_size"),
        (network(strides=[[1, 1, 1], [2, 2, 2]]), "strides"),
        (network(kernel_sizes=[*KERNELS[:2], [3, 3, -1]]), "kernel_sizes"),
        (network(kernel_sizes=[[3, 3]] * 3), "kernel_sizes"),
        (network(features_per_stage=[4, 0, 8]), "features_per_stage"),
        (changed(channels=1), "1 entries for 2 channels"),
        (changed(normalization_schemes=["Mine"] * 2), "the normalization 'Mine'"),
        (changed(preprocessor_name="Mine"), "the preprocessor 'Mine'"),
        (changed(resampling_fn_data="resample_torch_simple"), "resampling data by resample_torch"),
    ],
)
def test_what_would_be_done_otherwise_is_refused(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        converted(tmp_path, content)
    assert message in str(error.value)
