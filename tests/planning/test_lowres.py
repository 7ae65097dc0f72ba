"""When a low resolution stage is planned, and that nnU-Net's numbers come out."""

import pytest

from segkit.planning.lowres import plan_lowres, share_seen, why_lowres, why_no_lowres
from segkit.planning.patch import Budget
from segkit.planning.presets import PLANNERS

LIVER_MM, LIVER = (1.0, 0.767, 0.767), (432, 512, 512)


def budget(planner="default"):
    return Budget(settings=PLANNERS[planner], heads=3)


@pytest.mark.parametrize(
    ("planner", "patch"), [("default", (128, 128, 128)), ("resenc_l", (160, 224, 192))]
)
def test_liver(planner, patch):
    lowres = plan_lowres(LIVER_MM, LIVER, patch, 131, budget(planner))
    assert lowres.sized.patch_size == patch
    assert lowres.sized.batch_size == 2
    if planner == "default":
        assert lowres.spacing_mm == pytest.approx((2.427, 1.862, 1.862), abs=1e-3)
        assert lowres.median == (178, 211, 211)


def test_none_where_it_saves_too_little():
    # The patch sees 0.249 of the case: a few steps suffice, and they save less than half.
    assert plan_lowres((1.0,) * 3, (203, 203, 203), (128, 128, 128), 10, budget()) is None
    assert "a grid on which it sees 25% has more than 1/2 of the voxels" in why_no_lowres(0.249)


def test_none_where_a_patch_sees_a_quarter():
    # 128^3 of exactly four times as many voxels.
    assert plan_lowres((1.0,) * 3, (128, 256, 256), (128, 128, 128), 10, budget()) is None
    assert why_no_lowres(0.25) == (
        "no 3d_lowres and no 3d_cascade_fullres: a patch sees 25% of the median case, 25% is enough"
    )


def test_the_finest_axes_are_coarsened_first():
    lowres = plan_lowres((5.0, 0.5, 0.5), (100, 1024, 1024), (20, 256, 224), 20, budget())
    spacing = lowres.spacing_mm
    assert spacing[0] == 5
    assert spacing[1] == spacing[2] > 0.5
    assert share_seen(lowres.sized.patch_size, lowres.median) >= 0.25


def test_what_is_seen_is_at_most_all():
    assert share_seen((128, 128, 128), (100, 100, 100)) == 1
    assert share_seen((64, 64, 64), (128, 128, 128)) == 0.125
    assert why_lowres(0.0187, 0.2649).startswith(
        "a patch of 3d_fullres sees 1.9% of the median case, less than 25%: here it sees 26%"
    )
