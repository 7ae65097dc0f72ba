"""Resampling in nnU-Net's plans, and its names here."""

import json

import pytest
from nnunet_files import RESAMPLING, configuration, plans

from segkit.errors import UserError
from segkit.interop.nnunet.plans import read_plans
from segkit.interop.nnunet.resampling import nnunet_resampling, resampling_of


def found(tmp_path, **changes):
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans(configurations={"3d_fullres": configuration(**changes)})))
    return resampling_of(read_plans(path).configuration("3d_fullres"), "plans.json")


@pytest.mark.parametrize(
    ("resampling", "order", "separate"),
    [
        ("cubic", 3, None),
        ("linear", 1, None),
        ("cubic_all_axes", 3, False),
        ("linear_all_axes", 1, False),
    ],
)
def test_back_and_forth(tmp_path, resampling, order, separate):
    written = nnunet_resampling(resampling)
    kwargs = {"order_z": 0, "force_separate_z": separate}
    assert written["resampling_fn_data_kwargs"] == {"is_seg": False, "order": order, **kwargs}
    assert written["resampling_fn_seg_kwargs"] == {"is_seg": True, "order": 1, **kwargs}
    assert found(tmp_path, **written) == resampling


def test_no_resampling(tmp_path):
    written = nnunet_resampling("none")
    assert written["resampling_fn_seg"] == "no_resampling_hack"
    assert found(tmp_path, **written) == "none"


def test_what_plans_leave_out_is_nnunets_default(tmp_path):
    data, rest = {"separate_z_anisotropy_threshold": 3}, {"order": 1, "order_z": 1}
    given = {
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg_kwargs": {"is_seg": True, **rest},
        "resampling_fn_probabilities_kwargs": rest,
    }
    assert found(tmp_path, **given) == "cubic_all_axes"


@pytest.mark.parametrize(
    "given",
    [
        {"resampling_fn_seg_kwargs": {"is_seg": True, "order": 0, **RESAMPLING}},
        {"resampling_fn_probabilities_kwargs": {"order": 3, **RESAMPLING}},
        {"resampling_fn_data_kwargs": {"order": 3, "order_z": 1, "force_separate_z": None}},
        {"resampling_fn_data_kwargs": {"order": 3, "order_z": 0, "force_separate_z": True}},
        {"resampling_fn_data_kwargs": {"order": 2, **RESAMPLING}},
        {"resampling_fn_data_kwargs": {"order": 3, **RESAMPLING, "memory": 1}},
        {"resampling_fn_data": "no_resampling_hack"},
    ],
)
def test_other_ways_are_refused(tmp_path, given):
    with pytest.raises(UserError, match="is not known here"):
        found(tmp_path, **given)
