"""Plans through the commands: named, kept, taken over, never overwritten in silence."""

import json
import shlex

import nibabel as nib
import numpy as np
import pytest

from segkit.cli.main import main
from segkit.files import read_json, write_json

CONTENT = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "one": 1, "two": 2},
    "numTraining": 5,
    "file_ending": ".nii.gz",
}


def put(folder, case, seed, spacing=(1, 1, 1)):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (12, 14, 16)).astype(np.float32)
    labels = rng.integers(0, 3, image.shape).astype(np.uint8)
    for name, array in [(f"imagesTr/{case}_0000", image), (f"labelsTr/{case}", labels)]:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True, parents=True)
        nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1])), path)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "Dataset007_Toy"
    for seed, case in enumerate("abcde"):
        put(folder, case, seed)
    (folder / "dataset.json").write_text(json.dumps(CONTENT))
    return folder


@pytest.fixture
def segkit(tmp_path, capsys):
    def call(*arguments, code=0):
        arguments = [*map(str, arguments), "-w", str(tmp_path / "work")]
        jobs = [] if arguments[0] in ("train", "predict") else ["-j", "1"]
        found = main([*arguments, *jobs])
        told = capsys.readouterr()
        assert found == code, told.err
        return told

    return call


def plan_file(raw, name="default"):
    return raw.parent / "work" / raw.name / "plans" / f"{name}.json"


def edit(path, configuration="3d_fullres", **values):
    content = read_json(path)
    content["configurations"].setdefault(configuration, {}).update(values)
    write_json(path, content)


TRAINED = ("--recipe", "debug", "--set", "sampling.patch_size=[8,8,8]", "final_validation=false")


def test_several_plans_of_a_data_set(segkit, raw):
    segkit("plan", raw)
    told = segkit("plan", raw, "--spacing", "2", "1", "1", "--plan-name", "coarse")
    assert "planner default, plan coarse" in told.out
    segkit("plan", raw, "--spacing", "original", "--plan-name", "own", "--planner", "resenc_m")
    spacings = {
        name: read_json(plan_file(raw, name))["configurations"]["3d_fullres"]["spacing_mm"]
        for name in ("default", "coarse", "own")
    }
    assert spacings == {"default": [1, 1, 1], "coarse": [2, 1, 1], "own": [1, 1, 1]}
    told = segkit("preprocess", raw, "--planner", "own", "-c", "3d_fullres")
    assert "own_3d_fullres" in told.out
    segkit("train", raw, "3d_fullres", "--plan-name", "own", *TRAINED)
    model = raw.parent / "work" / raw.name / "models" / "own_3d_fullres_debug"
    assert (model / "fold_0" / "final.pt").is_file()
    images = sorted((raw / "imagesTr").iterdir())[:1]
    output = raw.parent / "out"
    chosen = ("-d", raw, "-c", "3d_fullres", "--planner", "own", "--no-tta")
    segkit("predict", "-i", *images, "-o", output, *chosen)
    assert (output / "a.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--spacing", "isotropc"), 1, "did you mean 'isotropic'"),
        (("--spacing", "1", "1"), 1, "three positive numbers"),
        (("--spacing", "1", "1", "iso"), 1, "'1.0 1.0 iso' is no spacing"),
        (("--spacing", "original", "--resampling", "linear"), 1, "has no effect"),
        (("--plan-name", "resenc_l"), 1, "name of another planner"),
        (("--plan-name", "a/b"), 1, "cannot name a plan"),
        (("--planner", "resenc_x"), 1, "unknown planner"),
        (("--from", "nowhere"), 1, "no dataset 'nowhere'"),
        (("--spacing", "1", "-1", "1"), 1, "three positive numbers"),
        (("--gpu-memory-gb", "-4"), 1, "positive number of GB, got -4"),
        (("--num-folds", "1"), 1, "1 is no number of folds"),
        (("--split-seed", "-1"), 1, "the seed must lie in 0 to"),
        (("--group-by", "^(.+"), 1, "no regular expression"),
        (("--group-by", "^(x)"), 1, "finds no group in 5 of 5 cases"),
        (("--group-by", "patient"), 1, "no column of a table"),
        (("--stratify", "labels", "site"), 1, "there is no table with 'site'"),
        (("--intensities", "target"), 2, "no effect without --from"),
        (("--from", "x", "--spacing", "isotropic"), 2, "they are the source's: --spacing"),
    ],
)
def test_options_that_make_no_sense(segkit, raw, arguments, code, message):
    assert message in segkit("plan", raw, *arguments, code=code).err
    # They are told before the images are read.
    assert not (raw.parent / "work").exists()


def test_a_work_folder_that_cannot_be_written_is_told_at_once(segkit, raw):
    (raw.parent / "work").write_text("")
    told = segkit("plan_and_preprocess", raw, code=1).err
    assert f"where: {raw.parent / 'work'}" in told
    assert "fingerprint" not in told


def test_a_plan_that_does_not_exist(segkit, raw):
    segkit("plan", raw, "--plan-name", "coarse")
    told = segkit("preprocess", raw, "--planner", "corse", code=1)
    assert "there is no plan 'corse'" in told.err
    assert "did you mean 'coarse'?" in told.err


def test_edits_are_never_overwritten_in_silence(segkit, raw):
    segkit("plan", raw)
    edit(plan_file(raw), batch_size=3)
    told = segkit("plan_and_preprocess", raw, code=1)
    assert "edited by hand" in told.err
    assert "configurations.3d_fullres.batch_size" in told.err
    assert read_json(plan_file(raw))["configurations"]["3d_fullres"]["batch_size"] == 3
    segkit("plan", raw, "--plan-name", "beside")
    segkit("plan", raw, "--overwrite")
    assert read_json(plan_file(raw))["configurations"]["3d_fullres"]["batch_size"] == 2


def test_another_request_is_told(segkit, raw):
    segkit("plan", raw, "--spacing", "2", "1", "1")
    assert "--spacing 2 1 1" in segkit("plan", raw).err


def test_a_broken_plan_is_told_and_can_be_replaced(segkit, raw):
    segkit("plan", raw)
    edit(plan_file(raw), patch_size=[9, 8, 8])
    for command in (("plan", raw), ("preprocess", raw), ("train", raw, "3d_fullres")):
        told = segkit(*command, code=1)
        assert "configurations.3d_fullres.patch_size" in told.err
    segkit("plan", raw, "--overwrite")


def test_a_configuration_of_ones_own_trains_on_its_parents_data(segkit, raw):
    segkit("plan_and_preprocess", raw, "-c", "3d_fullres")
    edit(plan_file(raw), "mine", inherits_from="3d_fullres", batch_size=3)
    told = segkit("preprocess", raw, "-c", "mine", "3d_fullres")
    assert "mine, 3d_fullres: 0 case(s) preprocessed, 5 unchanged" in told.out
    segkit("train", raw, "mine", *TRAINED)
    model = raw.parent / "work" / raw.name / "models" / "default_mine_debug"
    stored = read_json(model / "plan.json")["configurations"]
    assert stored["mine"]["batch_size"] == 3
    assert stored["mine"]["network"] == stored["3d_fullres"]["network"]
    images = sorted((raw / "imagesTr").iterdir())[:1]
    segkit("predict", "-i", *images, "-o", raw.parent / "out", "-m", model, "--no-tta")
    edit(plan_file(raw), "coarse", inherits_from="mine", spacing_mm=[2, 2, 2])
    told = segkit("train", raw, "coarse", *TRAINED, code=1)
    assert "5 of 5 cases are not preprocessed for coarse" in told.err
    assert "-c coarse" in told.err


def run(segkit, raw, *arguments, code=0):
    chosen = ("--recipe", "debug", "--folds", "0", "-c", "3d_fullres")
    quick = ("--set", "sampling.patch_size=[8,8,8]", "sampling.batch_size=2")
    return segkit("run", raw, *chosen, *quick, *arguments, code=code)


def test_run_follows_the_plan_that_is_there(segkit, raw):
    segkit("plan", raw, "--spacing", "2", "1", "1")
    edit(plan_file(raw), "2d", batch_size=5)
    before = plan_file(raw).read_text()
    run(segkit, raw)
    assert plan_file(raw).read_text() == before


def test_run_plans_again_as_before_when_the_data_changed(segkit, raw, caplog):
    segkit("plan", raw, "--spacing", "2", "1", "1")
    put(raw, "e", 99)
    run(segkit, raw)
    plan = read_json(plan_file(raw))
    assert plan["request"]["spacing"] == [2, 1, 1]
    assert plan["configurations"]["3d_fullres"]["spacing_mm"] == [2, 1, 1]


def test_run_needs_a_plan_or_a_planner_of_that_name(segkit, raw):
    assert "segkit plan" in run(segkit, raw, "--planner", "iso", code=1).err


def test_run_does_not_replace_edits_of_a_plan_of_other_data(segkit, raw):
    segkit("plan", raw)
    edit(plan_file(raw), batch_size=3)
    put(raw, "e", 99)
    told = run(segkit, raw, code=1)
    assert "edited by hand" in told.err
    keep = next(line for line in told.err.splitlines() if line.startswith("fix:"))
    command = keep.split("for these data: ")[1].split("; or plan anew")[0]
    segkit(*shlex.split(command)[1:])
    kept = read_json(plan_file(raw))["configurations"]["3d_fullres"]
    assert kept["batch_size"] == 3
    run(segkit, raw)


def test_a_plan_is_taken_from_another_data_set(segkit, raw, tmp_path):
    other = tmp_path / "Dataset008_Other"
    for seed, case in enumerate("vwxyz"):
        put(other, case, seed, spacing=(1, 1, 2))
    (other / "dataset.json").write_text(
        json.dumps({**CONTENT, "labels": {"background": 0, "one": 1, "two": 2, "three": 3}})
    )
    segkit("plan", other, "--planner", "resenc_m")
    told = segkit("plan", raw, "--from", other, "--planner", "resenc_m")
    name = "resenc_m_from_Dataset008_Other"
    assert f"plan {name}" in told.out
    made, source = read_json(plan_file(raw, name)), read_json(plan_file(other, "resenc_m"))
    full, there = (p["configurations"]["3d_fullres"] for p in (made, source))
    for key in ("spacing_mm", "patch_size", "batch_size", "network"):
        assert full[key] == there[key]
    assert made["intensities"] == source["intensities"]
    assert made["dataset"] == raw.name
    segkit("preprocess", raw, "--planner", name, "-c", "3d_fullres")
    told = segkit("plan", raw, "--from", plan_file(other, "resenc_m"), "--plan-name", "given")
    assert plan_file(raw, "given").is_file()
    assert "no plan" not in told.err
    told = segkit("plan", raw, "--from", other, code=1)
    assert "plans of Dataset008_Other: resenc_m" in told.err
