"""Folds of a data set: dealt as asked for, kept once trained on, refused where they leak."""

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from segkit.cli.main import main
from segkit.dataset.splits import make_splits

PATIENTS = {"P1": 3, "P2": 2, "P3": 2, "P4": 1, "P5": 2}
CASES = [f"{patient}_t{visit}" for patient, count in PATIENTS.items() for visit in range(count)]
BY_PATIENT = ("--group-by", "^(.+)_")


@pytest.fixture
def toy(tmp_path):
    folder = tmp_path / "Dataset007_Toy"
    for seed, case in enumerate(CASES):
        put_case(folder, case, seed)
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def put_case(folder, case, seed, highest=3):
    """Write noise with labels below ``highest``; the same seed gives the same image."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (8, 9, 10)).astype(np.float32)
    labels = rng.integers(0, highest, image.shape).astype(np.uint8)
    for name, array in [(f"imagesTr/{case}_0000", image), (f"labelsTr/{case}", labels)]:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def segkit(toy, capsys):
    def run(command, *arguments, code=0):
        work = toy.parent / "work"
        given = [command, toy, *arguments, "-w", work, "-j", 1, "--device", "cpu"]
        assert main(list(map(str, given))) == code
        return capsys.readouterr().err

    return run


def splits_file(toy):
    return toy.parent / "work" / toy.name / "splits.json"


def stored(toy):
    return json.loads(splits_file(toy).read_text())


def validated(toy):
    return [tuple(fold["val"]) for fold in stored(toy)["folds"]]


def patients_of(cases):
    return {case.split("_")[0] for case in cases}


def pretend_training(toy, fold="fold_0"):
    path = splits_file(toy).parent / "models/default_2d" / fold / "last.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")


def test_without_options_folds_are_nnunets(toy, segkit):
    segkit("plan")
    assert validated(toy) == [split.val for split in make_splits(CASES)]
    assert stored(toy)["request"] == {
        "num_folds": 5,
        "seed": 12345,
        "group_by": None,
        "stratify": [],
        "table": None,
    }
    segkit("plan", "--num-folds", 3, "--split-seed", 7)
    assert validated(toy) == [split.val for split in make_splits(CASES, 3, 7)]


def test_patients_stay_whole(toy, segkit):
    told = segkit("plan", *BY_PATIENT, "--num-folds", 3)
    assert "3 folds of 3 to 4 case(s), 5 groups by '^(.+)_' kept whole" in told
    assert "--group-by" not in told
    folds = [patients_of(val) for val in validated(toy)]
    assert sorted(map(len, folds)) == [1, 2, 2]
    assert sum(map(len, folds)) == 5
    assert stored(toy)["groups"]["P1"] == ["P1_t0", "P1_t1", "P1_t2"]


def test_folds_are_kept_and_told(toy, segkit):
    segkit("plan", *BY_PATIENT)
    before = splits_file(toy).read_bytes()
    assert "folds are kept as they were made" in segkit("plan")
    assert "folds are kept" not in segkit("plan", *BY_PATIENT)
    assert splits_file(toy).read_bytes() == before


def test_folds_that_were_trained_on_are_not_replaced(toy, segkit):
    segkit("plan", *BY_PATIENT)
    pretend_training(toy, "fold_all")
    assert "kept whole" not in segkit("plan", "--num-folds", 2)
    pretend_training(toy)
    before = splits_file(toy).read_bytes()
    told = segkit("plan", *BY_PATIENT, code=1)
    assert "models were trained on other folds (2 folds of 5 case(s)): default_2d/fold_0" in told
    assert splits_file(toy).read_bytes() == before
    segkit("plan", "--num-folds", 2)  # the same again
    told = segkit("plan", *BY_PATIENT, "--overwrite-splits")
    assert "trained on other folds than those dealt now: default_2d/fold_0" in told
    assert stored(toy)["request"]["group_by"] == "^(.+)_"
    segkit("plan", "--overwrite-splits")
    assert validated(toy) == [split.val for split in make_splits(CASES)]


def test_other_cases_are_dealt_by_the_same_rule(toy, segkit):
    segkit("plan", *BY_PATIENT)
    put_case(toy, "P5_t2", 99)
    assert "the cases or the given splits changed" in segkit("plan")
    assert "P5_t2" in stored(toy)["groups"]["P5"]
    assert stored(toy)["request"]["group_by"] == "^(.+)_"


def test_columns_of_a_table(toy, segkit):
    rows = [f"{case},{case[:2]},{'XY'[i % 2]}" for i, case in enumerate(CASES)]
    (toy / "cases.csv").write_text("\n".join(["case,patient,site", *rows]))
    assert "--group-by patient" in segkit("plan")
    told = segkit("plan", "--group-by", "patient", "--stratify", "site", "--num-folds", 2)
    assert "5 groups by 'patient' kept whole, site balanced" in told
    for val in validated(toy):
        sites = Counter("XY"[CASES.index(case) % 2] for case in val)
        assert abs(sites["X"] - sites["Y"]) <= 1
    other = toy.parent / "other.json"
    other.write_text(json.dumps({case: {"sex": "mf"[i // 5]} for i, case in enumerate(CASES)}))
    segkit("plan", "--stratify", "sex", "--table", other)
    for val in validated(toy):
        assert sorted(CASES.index(case) // 5 for case in val) == [0, 1]
    assert stored(toy)["request"]["table"] == str(other)
    assert "changes nothing" in segkit("plan", "--table", other, code=2)
    assert "did you mean 'site'" in segkit("plan", "--stratify", "sites", code=1)
    (toy / "cases.csv").unlink()
    assert "no table with 'site'" in segkit("plan", "--stratify", "site", code=1)


def test_labels_are_balanced(toy, segkit):
    for seed, case in enumerate(CASES):
        put_case(toy, case, seed, highest=3 if case.endswith("t0") else 2)
    segkit("plan", "--stratify", "labels")
    assert [sum(case.endswith("t0") for case in val) for val in validated(toy)] == [1] * 5


def test_names_of_visits_are_noticed(toy, segkit):
    told = segkit("plan")
    assert "there seem to be several cases a patient (10 cases of 5)" in told
    assert "--group-by '^(.+)[_-][A-Za-z]+-?\\d+$'" in told


def test_the_same_image_on_both_sides_is_refused(toy, segkit):
    segkit("plan")
    first, second = (val[0] for val in validated(toy)[:2])
    put_case(toy, second, CASES.index(first))
    told = segkit("plan")
    assert f"{second} (train) and {first} (validation): the same image" in told
    assert "training will refuse it" in told
    error = segkit("train", "2d", "--fold", 0, code=1)
    assert error.startswith("error: fold 0 is validated on what it is trained on, 1 pair(s):")
    assert f"segkit plan {toy} --group-by images --overwrite-splits" in error
    assert "not preprocessed" in segkit("train", "2d", "--fold", 2, code=1)
    assert "not preprocessed" in segkit("train", "2d", "--fold", "all", code=1)
    allowed = segkit("train", "2d", "--fold", 0, "--allow-leaks", code=1)
    assert "trained all the same" in allowed
    assert "not preprocessed" in allowed
    assert "validated on what it is trained on" in segkit("run", "-c", "2d", code=1)
    assert not (splits_file(toy).parent / "preprocessed").exists()
    told = segkit("plan", "--group-by", "images", "--overwrite-splits")
    assert "9 groups by 'images' kept whole" in told
    assert "validated on what" not in told
    assert any({first, second} <= set(val) for val in validated(toy))


def test_splits_made_by_hand_are_checked_against_groups(toy, segkit):
    halves = [CASES[:4], CASES[4:]]
    given = toy / "splits_final.json"
    folds = [{"train": halves[1 - i], "val": halves[i]} for i in range(2)]
    given.write_text(json.dumps(folds))
    assert "validated on what" not in segkit("plan")
    assert "settled by hand" in segkit("plan", "--num-folds", 3, code=1)
    assert validated(toy) == [tuple(sorted(half)) for half in halves]
    told = segkit("plan", *BY_PATIENT)
    assert "P2_t1 (train) and P2_t0 (validation): both of P2" in told
    assert f"mend {given}" in segkit("train", "2d", code=1)
    assert "both of P2" in segkit("plan")
    halves = [CASES[:5], CASES[5:]]
    given.write_text(json.dumps([{"train": halves[1 - i], "val": halves[i]} for i in range(2)]))
    assert "both of P2" not in segkit("plan", *BY_PATIENT)
    assert validated(toy) == [tuple(half) for half in halves]


def test_run_deals_as_plan_does(toy, segkit):
    error = segkit("run", "-c", "2d", *BY_PATIENT, "--num-folds", 2, "--recipe", "none", code=1)
    assert "no recipe 'none'" in error
    assert len(validated(toy)) == 2
    assert stored(toy)["request"]["group_by"] == "^(.+)_"
