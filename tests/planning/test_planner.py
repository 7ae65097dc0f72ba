from dataclasses import replace

import pytest
from fake_datasets import (
    BRATS,
    HIPPOCAMPUS,
    LIVER,
    PROSTATE,
    RGB,
    STATISTICS,
    describe,
    fake,
    fake_case,
    planned,
)

from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.memory import feature_map_elements
from segkit.planning.plan import (
    PlanRequest,
    load_plan,
    plan_source,
    planned_description,
    save_plan,
)
from segkit.planning.planner import explain, make_plan


def test_liver_in_full():
    plan = planned(LIVER)
    fullres, plane = plan.configuration("3d_fullres"), plan.configuration("2d")
    assert plan.transpose_forward == (0, 1, 2)
    assert fullres.spacing_mm == (1, 0.767, 0.767)
    assert fullres.median_shape == (432, 512, 512)
    assert plane.spacing_mm == (0.767, 0.767)
    assert plane.median_shape == (512, 512)
    assert fullres.batch_dice
    assert plane.batch_dice
    assert fullres.normalization == ("ct",)
    network = fullres.network
    assert network.kind == "plain"
    assert network.features_per_stage == (32, 64, 128, 256, 320, 320)
    assert network.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert network.kernel_sizes == ((3, 3, 3),) * 6
    assert network.convs_per_stage == (2,) * 6
    assert network.convs_per_decoder_stage == (2,) * 5


def test_residual_encoder_blocks():
    network = planned(LIVER, "resenc_xl").configuration("3d_fullres").network
    assert network.kind == "residual_encoder"
    assert network.convs_per_stage == (1, 3, 4, 6, 6, 6, 6)
    assert network.convs_per_decoder_stage == (1,) * 6


def test_prostate_strides_and_kernels():
    configuration = planned(PROSTATE).configuration("3d_fullres")
    plane, all_axes = (1, 2, 2), (2, 2, 2)
    expected = ((1, 1, 1), plane, plane, all_axes, all_axes, plane, plane)
    assert configuration.network.strides == expected
    assert configuration.network.kernel_sizes == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    assert not configuration.batch_dice


@pytest.mark.parametrize("planner", ["default", "resenc_m", "resenc_l", "resenc_xl"])
def test_a_low_resolution_comes_with_a_cascade(planner):
    plan = planned(LIVER, planner)
    assert list(plan.configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    fullres, cascade = map(plan.configuration, ("3d_fullres", "3d_cascade_fullres"))
    assert replace(cascade, previous_stage=None, reasons=fullres.reasons) == fullres
    assert fullres.batch_dice
    assert not plan.configuration("3d_lowres").batch_dice
    assert plan.previous_stage("3d_cascade_fullres") == "3d_lowres"
    assert plan.previous_stage("3d_fullres") is None
    stored = {name: plan.stored_as(name) for name in plan.configurations}
    assert stored == {
        "2d": "2d",
        "3d_lowres": "3d_lowres",
        "3d_fullres": "3d_fullres",
        "3d_cascade_fullres": "3d_fullres",
    }


def test_the_low_resolution_of_liver():
    lowres = planned(LIVER).configuration("3d_lowres")
    assert lowres.spacing_mm == pytest.approx((2.427, 1.862, 1.862), abs=1e-3)
    assert lowres.median_shape == (178, 211, 211)
    assert (lowres.patch_size, lowres.batch_size) == ((128, 128, 128), 2)
    assert lowres.normalization == ("ct",)


def test_why_there_is_a_low_resolution_or_none():
    told = "\n".join(explain(planned(LIVER)))
    assert "3d_lowres: a patch of 3d_fullres sees 1.9% of the median case, less than 25%" in told
    assert "3d_cascade_fullres: 3d_fullres, whose network is also given the segm" in told
    told = explain(planned(HIPPOCAMPUS))
    assert (
        "3d_fullres: no 3d_lowres and no 3d_cascade_fullres: a patch sees 100% of the median"
        in ("\n".join(told))
    )
    with pytest.raises(
        UserError, match=r"3d_lowres is not planned .*: no 3d_lowres and no"
    ) as told:
        planned(HIPPOCAMPUS).configuration("3d_lowres")
    assert "planned are 2d, 3d_fullres" in told.value.fix


def test_little_memory_asks_for_a_low_resolution():
    fingerprint = fake((96, 96, 96), cases=10)
    assert "3d_lowres" not in planned(fingerprint).configurations
    small = planned(fingerprint, gpu_memory_gb=0.2)
    assert small.configuration("3d_lowres").median_shape < (96, 96, 96)


def test_a_cascade_of_three_stages_is_refused():
    plan = planned(LIVER)
    changed = replace(plan.configuration("3d_lowres"), previous_stage="2d")
    deep = replace(plan, configurations={**plan.configurations, "3d_lowres": changed})
    assert deep.previous_stage("3d_lowres") == "2d"
    with pytest.raises(UserError, match="which has one itself"):
        deep.previous_stage("3d_cascade_fullres")


def test_planes_get_2d_only():
    plan = planned(RGB)
    assert list(plan.configurations) == ["2d"]
    assert plan.configuration("2d").spacing_mm == (1, 1)
    assert plan.configuration("2d").batch_dice


def test_the_coarsest_axis_comes_first():
    plan = planned(fake((300, 300, 20), (0.5, 0.6, 4), cases=5))
    assert plan.transpose_forward == (2, 0, 1)
    assert plan.transpose_backward == (1, 2, 0)
    fullres = plan.configuration("3d_fullres")
    assert fullres.spacing_mm == (4, 0.5, 0.6)
    assert fullres.median_shape == (20, 300, 300)
    assert plan.configuration("2d").spacing_mm == (0.5, 0.6)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("noNorm", "none"),
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("RGB_to_0_1", "rgb_to_0_1"),
        ("FLAIR", "zscore"),
        ("ct ", "zscore"),
    ],
)
def test_channel_names_choose_the_normalization(name, scheme):
    plan = make_plan(fake((32, 32, 32)), describe((name,)))
    assert plan.configuration("2d").normalization == (scheme,)
    assert plan.channel_names == (name,)


@pytest.mark.parametrize(("kept", "inside"), [(0.7499, (True, False)), (0.75, (False, False))])
def test_statistics_inside_the_mask(kept, inside):
    fingerprint = fake((32, 32, 32), kept=kept, channels=2)
    plan = make_plan(fingerprint, describe(("MR", "CT")))
    assert plan.configuration("3d_fullres").normalize_inside_mask == inside


@pytest.mark.parametrize(("share", "force"), [(0.0, True), (1e-4, True), (2e-4, False)])
def test_labels_on_black_keep_it_from_being_background(share, force):
    plan = make_plan(fake((32, 32, 32), in_zero=share), describe())
    assert plan.force_invalid_to_background is force


def test_orientation_of_the_majority():
    cases = [fake_case((32, 32, 32), orientation=code) for code in ("RAS", "LPS", "RAS")]
    mixed = Fingerprint(
        cases=tuple(cases),
        intensities=(STATISTICS,),
        median_relative_size_after_crop=1.0,
        labelled_share_in_zero=0.0,
        orientation="RAS",
    )
    plan = make_plan(mixed, describe())
    assert plan.orientation == "RAS"
    assert "RAS 2, LPS 1" in plan.reasons[0]
    assert planned(HIPPOCAMPUS).orientation is None


def test_memory_scales_the_reference():
    assert planned(LIVER, gpu_memory_gb=8).configurations == planned(LIVER).configurations
    small = planned(LIVER, gpu_memory_gb=4).configuration("3d_fullres")
    large = planned(LIVER, gpu_memory_gb=16).configuration("3d_fullres")
    volumes = [p[0] * p[1] * p[2] for p in (small.patch_size, (128,) * 3, large.patch_size)]
    assert volumes == sorted(set(volumes))
    assert "4 GB" in " ".join(small.reasons)


def test_spacing_override():
    plan = planned(LIVER, spacing=(2, 1.534, 1.534))
    assert plan.configuration("3d_fullres").median_shape == (216, 256, 256)
    assert "as asked for" in " ".join(plan.reasons)


@pytest.mark.parametrize(
    "options",
    [
        {"planner": "resenc_s"},
        {"gpu_memory_gb": 0.0},
        {"gpu_memory_gb": float("nan")},
        {"gpu_memory_gb": 1e-4},
        {"spacing": (1.0, 1.0)},
        {"spacing": (1.0, 0.0, 1.0)},
    ],
)
def test_refusals(options):
    with pytest.raises(UserError) as caught:
        planned(LIVER, **options)
    assert caught.value.fix


@pytest.mark.parametrize("shape", [(5, 5, 5), (1, 6, 6), (3, 2, 200), (2, 7, 7)])
def test_tiny_images_still_get_a_network(shape):
    plan = planned(fake(shape, cases=3))
    for configuration in plan.configurations.values():
        assert len(configuration.network.strides) >= 2
        assert configuration.batch_size >= 2


def test_every_decision_has_a_reason():
    plan = planned(HIPPOCAMPUS)
    lines = explain(plan)
    assert all("\n" not in line for line in lines)
    text = "\n".join(lines)
    assert "3d_fullres: patch 40x56x40: the median case, padded" in text
    assert "batch size 9: one batch holds at most 5%" in text
    assert len([line for line in lines if line.startswith("2d: ")]) == 5


def test_plans_survive_the_disk(tmp_path):
    plan = planned(BRATS, "resenc_l", 4)
    save_plan(tmp_path / "plan.json", plan, made_from="x")
    assert load_plan(tmp_path / "plan.json") == plan
    assert plan_source(tmp_path / "plan.json") == "x"


def overlapping(counts, names=("a", "b", "c")):
    """Three cases; ``counts`` are the voxels of every structure in each, of 1000."""
    values = {"background": 0, **{name: i + 1 for i, name in enumerate(names)}}
    content = {"channel_names": {"0": "MR"}, "labels": values, "label_encoding": "multilabel"}
    described = replace(
        describe(), content=content, labels=LabelSchema.from_description(values, content)
    )
    cases = [
        replace(fake_case((32, 32, 32)), class_voxels=voxels, annotated_voxels=(1000,) * 3)
        for voxels in counts
    ]
    measured = replace(fake((32, 32, 32)), cases=tuple(cases), class_names=names)
    return measured, described


def test_rare_structures_are_left_out():
    measured, described = overlapping([(10, 1, 0), (10, 0, 0), (10, 1, 0)])
    plan = make_plan(measured, described)
    assert plan.left_out == ()
    assert planned_description(described, plan) is described
    plan = make_plan(measured, described, request=PlanRequest(min_cases=2))
    assert plan.left_out == ("c",)
    text = "\n".join(plan.reasons)
    assert "structure b: in 2 of 3 case(s), 0.067% of the voxels" in text
    assert "structure c: in 0 of 3 case(s), 0.000% of the voxels; left out" in text
    kept = planned_description(described, plan).labels
    assert (kept.target_names, kept.structure_bits) == (("a", "b"), (0, 1))
    assert [one.name for one in kept.left_out] == ["c"]


def test_leaving_out_is_refused_where_classes_exclude_each_other():
    with pytest.raises(UserError, match="exclude each other"):
        planned(HIPPOCAMPUS, min_cases=2)


def test_a_plan_whose_structures_are_gone_is_not_followed():
    measured, described = overlapping([(10, 1, 0)] * 3)
    plan = make_plan(measured, described, request=PlanRequest(min_cases=2))
    for other in (describe(), overlapping([(1, 1, 1)], names=("a", "b", "d"))[1]):
        with pytest.raises(UserError, match="leaves out c, which"):
            planned_description(other, plan)


def test_the_plan_tells_how_much_is_labelled_on_black():
    plan = make_plan(fake((32, 32, 32), in_zero=0.0123), describe())
    (line,) = [reason for reason in plan.reasons if "nonzero mask are" in reason]
    assert line == (
        "voxels outside the nonzero mask are predicted like any other "
        "(loss.invalid_voxels background): 1.230% of the labelled "
        "voxels lie there, the limit is 0.01%"
    )


@pytest.mark.parametrize(
    ("fingerprint", "labels", "name", "patch", "batch"),
    [
        (HIPPOCAMPUS, 3, "3d_fullres", (40, 56, 40), 9),
        (LIVER, 3, "3d_fullres", (64, 80, 80), 2),
        (LIVER, 3, "2d", (512, 512), 2),
        (PROSTATE, 3, "3d_fullres", (12, 160, 160), 2),
        (RGB, 2, "2d", (512, 512), 2),
    ],
)
def test_the_planner_for_cpus(fingerprint, labels, name, patch, batch):
    plan = planned(fingerprint, "cpu", labels)
    chosen = plan.configuration(name)
    assert (chosen.patch_size, chosen.batch_size) == (patch, batch)
    network = chosen.network
    assert network.features_per_stage[:3] == (16, 32, 64)
    assert network.convs_per_stage[:2] == (1, 2)
    assert set(network.convs_per_decoder_stage) == {1}
    heads = labels
    # A step costs much the same whatever the data: it is the elements that count.
    assert feature_map_elements(network, patch, heads) * batch <= 80e6
    assert "GPU" not in " ".join(chosen.reasons)
