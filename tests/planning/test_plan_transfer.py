from dataclasses import replace

import pytest
from fake_datasets import BRATS, HIPPOCAMPUS, LIVER, RGB, describe, fake, planned

from segkit.errors import UserError
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.planner import make_plan
from segkit.planning.transfer import transfer_plan

CT_LIKE = fake((60, 90, 80), (2.0, 1.0, 1.0), cases=4)


def moved(source, target, intensities="source", labels=4, channels=("PET",)):
    own = make_plan(target, describe(channels, labels))
    return transfer_plan(source, own, target, intensities), own


def test_numbers_are_the_sources_and_labels_the_targets():
    source = planned(LIVER)
    made, own = moved(source, CT_LIKE)
    assert made.configurations.keys() == source.configurations.keys()
    for name, there in source.configurations.items():
        here = made.configuration(name)
        for key in ("spacing_mm", "patch_size", "batch_size", "network", "normalization"):
            assert getattr(here, key) == getattr(there, key)
    assert made.intensities == source.intensities
    assert (made.dataset, made.channel_names) == (own.dataset, ("PET",))
    assert made.configuration("3d_fullres").normalization == ("ct",)
    # 60 x 2 / 1, 90 / 0.767 and 80 / 0.767 voxels
    assert made.configuration("3d_fullres").median_shape == (120, 117, 104)
    assert made.configuration("2d").median_shape == (117, 104)
    (reason,) = made.configuration("2d").reasons
    assert reason.startswith("spacing 0.767x0.767 mm, patch 512x512, batch size 12: as in the")
    assert not made.edited


def test_the_targets_own_normalization():
    made, own = moved(planned(LIVER), CT_LIKE, "target")
    assert made.configuration("3d_lowres").normalization == ("zscore",)
    assert made.intensities == own.intensities


def test_another_number_of_channels_is_told():
    source = planned(BRATS, labels=4)
    with pytest.raises(UserError, match=r"4 channel\(s\) \(T1, T1ce.*has 1 \(PET\)") as caught:
        moved(source, CT_LIKE)
    assert "--intensities target" in caught.value.fix
    made, _ = moved(source, CT_LIKE, "target")
    assert made.configuration("3d_fullres").normalization == ("zscore",)


def test_planes_take_2d_only():
    source = planned(HIPPOCAMPUS)
    plane = fake((1, 200, 100), (999, 1, 1), cases=3)
    made, own = moved(source, plane)
    assert list(made.configurations) == ["2d"]
    assert made.transpose_forward == own.transpose_forward
    assert made.configuration("2d").median_shape == (200, 100)
    volumes_only = type(source)(
        **{
            name: getattr(source, name)
            for name in source.__dataclass_fields__
            if name != "configurations"
        },
        configurations={"3d_fullres": source.configuration("3d_fullres")},
    )
    with pytest.raises(UserError, match="holds planes"):
        moved(volumes_only, plane)
    volumes, _ = moved(planned(RGB, labels=2), CT_LIKE, "target")
    assert list(volumes.configurations) == ["2d"]


def test_the_sources_orientation_and_axis_order_are_kept():
    first = Fingerprint(
        cases=fake((40, 50, 20), (1, 1, 4)).cases,
        intensities=CT_LIKE.intensities,
        median_relative_size_after_crop=1.0,
        labelled_share_in_zero=0.0,
        orientation="LPS",
    )
    source = make_plan(first, describe())
    assert source.transpose_forward == (2, 0, 1)
    other = Fingerprint(
        cases=fake((60, 90, 80), (2, 1, 1), cases=4).cases,
        intensities=CT_LIKE.intensities,
        median_relative_size_after_crop=1.0,
        labelled_share_in_zero=0.0,
        orientation="SPL",
    )
    made, own = moved(source, other)
    assert own.orientation == "SPL"
    assert made.orientation == "LPS"
    # As stored z y x = (60, 90, 80) of L P S; in LPS it is (80, 90, 60); x first.
    assert made.configuration("3d_fullres").median_shape == (30, 80, 90)


def test_plans_of_nnunet_bring_its_rules_along():
    source = replace(
        planned(HIPPOCAMPUS),
        voxel_rules="nnunet",
        orientation=None,
        force_invalid_to_background=False,
    )
    own = replace(planned(CT_LIKE), orientation="LPS")
    made = transfer_plan(source, own, CT_LIKE, "source")
    assert (made.voxel_rules, made.orientation) == ("nnunet", None)
    assert not made.force_invalid_to_background
    assert "empty voxels as in nnU-Net" in made.reasons[2]
