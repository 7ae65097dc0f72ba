"""Plans edited by hand: what is accepted, what is refused and how it is told."""

import json
from dataclasses import replace

import pytest
from fake_datasets import BRATS, LIVER, planned

from segkit.errors import UserError
from segkit.planning.plan import load_plan, plan_arguments, save_plan
from tests.tiny import STATISTICS, tiny_configuration, tiny_plan


@pytest.fixture
def file(tmp_path):
    """A plan file, and a function that edits one value of it by its path."""
    path = tmp_path / "plan.json"
    save_plan(path, planned(LIVER), made_from="x")

    def edit(keys, value):
        content = json.loads(path.read_text())
        *way, last = keys.split(".")
        place = content
        for key in way:
            place = place[key]
        place[last] = value
        path.write_text(json.dumps(content))
        return path

    return edit


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", [64, 128, 96]),
        ("batch_size", 1),
        ("batch_dice", False),
        ("spacing_mm", [2, 2.5, 2]),
        ("normalization", ["zscore"]),
        ("resampling", "linear"),
        ("network.features_per_stage", [8, 16, 32, 64, 80, 80]),
        ("network.kernel_sizes", [[1, 3, 3]] * 6),
        ("network.convs_per_stage", [1, 2, 3, 4, 4, 4]),
    ],
)
def test_edits_are_followed_and_noticed(file, key, value):
    plan = load_plan(file(f"configurations.3d_fullres.{key}", value))
    found = plan.configuration("3d_fullres")
    for name in key.split("."):
        found = getattr(found, name)
    assert json.loads(json.dumps(found)) == value
    assert plan.edited


def test_a_plan_as_it_was_made_is_not_edited(file):
    plan = load_plan(file("made_from", "y"))
    assert not plan.edited
    assert not load_plan(file("name", "copied")).edited


@pytest.mark.parametrize(
    ("key", "value", "message", "fix"),
    [
        (
            "patch_size",
            [100, 128, 128],
            r"\[100, 128, 128\] must be multiples of",
            "[96, 128, 128]",
        ),
        ("patch_size", [0, 128, 128], "must be multiples of", "[32, 128, 128]"),
        ("patch_size", [32, 32, 32], "a single voxel", "larger"),
        ("patch_size", [128], r"2 entries \(y, x\) or 3", "entries"),
        ("patch_size", [128, 128, 128.5], "expected int, got 128.5", "int"),
        ("batch_size", 0, "must be positive, got 0", "1 or more"),
        ("batch_size", "2", "expected int", "int"),
        ("batch_sise", 2, "unknown key 'batch_sise'", "batch_size"),
        ("spacing_mm", [1, 1], "must have 3 entries", "entries"),
        ("spacing_mm", [1, 1, -1], "must be positive, got -1.0", "above 0"),
        ("median_shape", [9, 9], "must have 3 entries", "entries"),
        ("normalization", ["ct", "ct"], "one entry a channel \\(1\\), got 2", "entries"),
        ("normalization", ["zscor"], "'zscor' is not allowed", "'zscore'"),
        ("normalize_inside_mask", [], "one entry a channel", "entries"),
        ("resampling", "cubic_spline", "'cubic_spline' is not allowed", "cubic"),
        ("previous_stage", "3d_lowers", "no configuration '3d_lowers'", "3d_lowres"),
        ("network.features_per_stage", [8, 16], "must have 2 entries for 2 stages", ""),
        ("network.features_per_stage", [8, 16, 32, 64, 0, 80], "must be positive", ""),
        ("network.strides", [[1, 1, 1]] + [[2, 2]] * 5, "must have 3 axes", "3D"),
        ("network.strides", [[2, 2, 2]] * 6, "first stride must be all ones", "resolution"),
        ("network.kernel_sizes", [[3, 3, 2]] * 6, "must be odd", "1, 3, 5"),
        ("network.convs_per_stage", [2] * 5, "must have 6 entries for 6 stages, got 5", ""),
        ("network.convs_per_decoder_stage", [2] * 6, "must have 5 entries", ""),
        ("network.kind", "resunet", "'resunet' is not allowed", ""),
    ],
)
def test_a_wrong_value_is_named_with_its_key(file, key, value, message, fix):
    with pytest.raises(UserError, match=message) as caught:
        load_plan(file(f"configurations.3d_fullres.{key}", value))
    told = f"{caught.value.what} {caught.value.where}"
    assert f"configurations.3d_fullres.{key}".rpartition(".")[0] in told
    assert key.rpartition(".")[2] in told
    assert fix in (caught.value.fix or "") + caught.value.what


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("transpose_forward", [0, 1, 1], "each of 0, 1 and 2 once"),
        ("orientation", "LPX", "not an orientation"),
        ("intensities", [], "one entry a channel"),
        ("configurations.my config", {"inherits_from": "2d"}, "cannot name a folder"),
        ("configurations.mine", {"inherits_from": "2d", "batch_size": -1}, "must be positive"),
    ],
)
def test_what_all_configurations_share_is_checked_too(file, key, value, message):
    with pytest.raises(UserError, match=message) as caught:
        load_plan(file(key, value))
    assert key in str(caught.value.where)


def test_all_faults_are_told_at_once(file):
    file("configurations.2d.batch_size", 0)
    path = file("configurations.3d_fullres.patch_size", [100, 128, 128])
    with pytest.raises(UserError, match="2 values of the plan do not fit") as caught:
        load_plan(path)
    for key in ("2d.batch_size: must be", "3d_fullres.patch_size: [100, 128, 128] must"):
        assert f"configurations.{key}" in caught.value.what


def test_an_inheriting_configuration_shares_the_data_unless_it_changes_them(file):
    more = {"inherits_from": "3d_fullres", "batch_size": 4}
    other = {"inherits_from": "mine", "spacing_mm": [2, 2, 2]}
    file("configurations.mine", more)
    plan = load_plan(file("configurations.coarse", other))
    mine, full = plan.configuration("mine"), plan.configuration("3d_fullres")
    assert (mine.batch_size, mine.patch_size, mine.network) == (4, full.patch_size, full.network)
    assert plan.stored_as("mine") == "3d_fullres"
    assert plan.stored_as("coarse") == "coarse"
    assert plan.stored_as("2d") == "2d"
    assert plan.edited


def test_what_is_not_resampled_does_not_depend_on_the_planned_spacing(file):
    first = {"inherits_from": "3d_fullres", "resampling": "none"}
    file("configurations.a", first)
    plan = load_plan(file("configurations.b", {**first, "spacing_mm": [2, 2, 2]}))
    assert plan.stored_as("b") == "a"
    assert plan.stored_as("a") == "a"


@pytest.mark.parametrize(
    ("planner", "request_", "arguments"),
    [
        ("default", {}, ()),
        ("resenc_l", {"gpu_memory_gb": 11.0}, ("--planner", "resenc_l", "--gpu-memory-gb", "11")),
        ("default", {"spacing": (1.0, 0.5, 0.5)}, ("--spacing", "1", "0.5", "0.5")),
        ("default", {"spacing": "original", "resampling": "none"}, ("--spacing", "original")),
        ("default", {"resampling": "linear"}, ("--resampling", "linear")),
    ],
)
def test_a_plan_says_how_it_was_asked_for(planner, request_, arguments):
    assert plan_arguments(planned(BRATS, planner, 4, **request_)) == arguments


def test_only_channels_normalised_by_others_make_cases_stale_when_these_change():
    brighter = replace(STATISTICS, mean=5.0)
    for scheme, stale in (("zscore", False), ("ct", True), ("none", False)):
        plan = tiny_plan(tiny_configuration(normalization=(scheme,)))
        other = replace(plan, intensities=(brighter,))
        hashes = {each.preprocessing_hash("3d_fullres") for each in (plan, other)}
        assert (len(hashes) == 2) == stale
