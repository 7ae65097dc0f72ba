import json
import os

import numpy as np
import pytest
import SimpleITK as sitk

from segkit.dataset.cases import training_cases
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image
from segkit.errors import UserError
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
from segkit.preprocessing import dataset
from segkit.preprocessing.dataset import open_fresh, preprocess_dataset
from segkit.preprocessing.store import PreprocessedStore

STATISTICS = IntensityStatistics(
    mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1
)
NETWORK = NetworkPlan(
    features_per_stage=(2,),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    convs_per_stage=(2,),
    convs_per_decoder_stage=(),
)


def make_plan(spacing=(1.0, 1.0, 1.0), batch_size=2):
    configuration = ConfigurationPlan(
        spacing_mm=spacing,
        patch_size=(4, 4, 4),
        batch_size=batch_size,
        median_shape=(8.0, 8.0, 8.0),
        normalization=("zscore",),
        normalize_inside_mask=(False,),
        batch_dice=False,
        network=NETWORK,
    )
    return Plan(
        planner="default",
        dataset="Dataset001_Test",
        channel_names=("MR",),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(STATISTICS,),
        configurations={"3d_fullres": configuration},
    )


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def write_case(folder, case, seed):
    rng = np.random.default_rng(seed)
    image = rng.uniform(1, 2, (6, 7, 8)).astype(np.float32)
    write(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[2:4, 2:4, 2:4] = 4
    write(folder / "labelsTr" / f"{case}.nii.gz", labels)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "Dataset001_Test"
    for i, case in enumerate(("one", "two", "three")):
        write_case(folder, case, i)
    write_description(folder, 3)
    return folder


def write_description(folder, count):
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "thing": 4},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def run(raw, plan=None, jobs=1):
    description = load_description(raw)
    cases = training_cases(description)
    folders = {"3d_fullres": raw.parent / "preprocessed"}
    made = preprocess_dataset(description, cases, plan or make_plan(), folders, jobs=jobs)
    return made["3d_fullres"]


def store(raw):
    return PreprocessedStore(raw.parent / "preprocessed")


def test_everything_once_then_nothing(raw, monkeypatch):
    assert run(raw) == 3
    assert store(raw).case_ids() == ("one", "three", "two")
    np.testing.assert_array_equal(np.unique(store(raw).seg("one")), [0, 1])
    assert len(store(raw).locations("one")[1]) == 8
    assert abs(store(raw).image("one").mean()) < 1e-5
    # Untouched files are not even hashed again.
    monkeypatch.setattr(dataset, "case_identity", None)
    assert run(raw) == 0


def test_a_case_is_read_once_for_all_configurations(raw, monkeypatch):
    run(raw)
    plan, read = make_plan(), []
    plan.configurations["2d"] = plan.configuration("3d_fullres")
    folders = {"3d_fullres": raw.parent / "preprocessed", "2d": raw.parent / "planes"}
    monkeypatch.setattr(
        dataset, "read_image", lambda images, reader: read.append(images) or read_image(images)
    )
    store(raw).remove("two")
    cases = training_cases(load_description(raw))
    made = preprocess_dataset(load_description(raw), cases, plan, folders, jobs=1)
    assert made == {"3d_fullres": 1, "2d": 3}
    assert len(read) == 3
    planes = PreprocessedStore(folders["2d"])
    np.testing.assert_array_equal(planes.image("two"), store(raw).image("two"))


def test_workers_give_the_same(raw):
    run(raw)
    image = np.array(store(raw).image("two"))
    store(raw).remove("two")
    store(raw).remove("one")
    assert run(raw, jobs=2) == 2
    np.testing.assert_array_equal(store(raw).image("two"), image)


def test_changed_spacing_redoes_all_but_a_changed_batch_size_nothing(raw):
    run(raw)
    assert run(raw, make_plan(batch_size=7)) == 0
    assert run(raw, make_plan(spacing=(2.0, 1.0, 1.0))) == 3
    assert store(raw).image("one").shape == (1, 3, 7, 8)


def test_changed_and_touched_files(raw):
    run(raw)
    path = raw / "labelsTr" / "two.nii.gz"
    os.utime(path, (1, 1))
    assert run(raw) == 0
    write_case(raw, "two", 9)
    assert run(raw) == 1


def test_deleted_case_leaves_nothing(raw):
    run(raw)
    (raw / "imagesTr" / "two_0000.nii.gz").unlink()
    (raw / "labelsTr" / "two.nii.gz").unlink()
    write_description(raw, 2)
    abandoned = store(raw).folder / ".one.npy.abcdefgh"
    abandoned.touch()
    os.utime(abandoned, (1, 1))
    assert run(raw) == 0
    names = sorted(path.name for path in store(raw).folder.iterdir())
    assert len(names) == 8
    assert not any("two" in name or name.startswith(".") for name in names)


def test_missing_array_is_made_again(raw):
    run(raw)
    (store(raw).folder / "one_seg.npy").unlink()
    assert run(raw) == 1


def test_failing_case_is_named_and_the_others_are_done(raw):
    write(raw / "labelsTr" / "two.nii.gz", np.full((6, 7, 8), 9, np.uint8))
    with pytest.raises(UserError, match="not declared") as raised:
        run(raw)
    assert "two" in str(raised.value)
    assert store(raw).case_ids() == ("one", "three")


def test_open_fresh(raw):
    description, folder = load_description(raw), store(raw).folder
    with pytest.raises(UserError, match="3 of 3 cases are not preprocessed"):
        open_fresh(folder, description, training_cases(description), make_plan(), "3d_fullres")
    run(raw)
    opened = open_fresh(folder, description, training_cases(description), make_plan(), "3d_fullres")
    assert opened.case_ids() == ("one", "three", "two")
    with pytest.raises(UserError, match="3 of 3"):
        open_fresh(
            folder,
            description,
            training_cases(description),
            make_plan(spacing=(2.0, 1.0, 1.0)),
            "3d_fullres",
        )
    write_case(raw, "two", 9)
    with pytest.raises(UserError, match=r"1 of 3.*two"):
        open_fresh(folder, description, training_cases(description), make_plan(), "3d_fullres")


STRUCTURES = {"background": 0, "whole": 1, "front": 2, "back": 4}


def make_multilabel(raw, **extra):
    """Turn the cases into structures: whole, and front and back that share a slice."""
    for path in (raw / "labelsTr").glob("*.nii.gz"):
        bits = np.zeros((6, 7, 8), np.uint8)
        bits[1:5] |= 1
        bits[1:4] |= 2
        bits[3:5] |= 4
        write(path, bits)
    content = json.loads((raw / "dataset.json").read_text())
    content.update(labels=STRUCTURES, label_encoding="multilabel", **extra)
    (raw / "dataset.json").write_text(json.dumps(content))


def use_folder(raw, case):
    """Store the case as one file a structure."""
    bits = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTr" / f"{case}.nii.gz")))
    for name, bit in list(STRUCTURES.items())[1:]:
        write(raw / "labelsTr" / case / f"{name}.nii.gz", (bits & bit > 0).astype(np.uint8))
    (raw / "labelsTr" / f"{case}.nii.gz").unlink()


def test_structures_are_stored_a_channel_each(raw):
    make_multilabel(raw)
    assert run(raw) == 3
    seg = store(raw).seg("one")
    assert (seg.shape, seg.dtype) == ((3, 6, 7, 8), np.int8)
    assert seg[:, :, 0, 0].tolist() == [[0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_a_label_folder_gives_the_same_and_is_made_again_when_one_file_changes(raw):
    make_multilabel(raw)
    run(raw)
    before = np.array(store(raw).seg("two"))
    for case in ("one", "two", "three"):
        use_folder(raw, case)
    assert run(raw) == 3
    np.testing.assert_array_equal(store(raw).seg("two"), before)
    write(raw / "labelsTr" / "two" / "back.nii.gz", np.zeros((6, 7, 8), np.uint8))
    assert run(raw) == 1
    assert not store(raw).seg("two")[2].any()


def test_a_missing_structure_is_told_and_the_other_cases_are_done(raw):
    make_multilabel(raw)
    for case in ("one", "two", "three"):
        use_folder(raw, case)
    cases = training_cases(load_description(raw))
    (raw / "labelsTr" / "two" / "back.nii.gz").unlink()
    folder = raw.parent / "preprocessed"
    with pytest.raises(UserError, match="no file for back") as raised:
        preprocess_dataset(
            load_description(raw), cases, make_plan(), {"3d_fullres": folder}, jobs=1
        )
    assert "two" in str(raised.value)
    assert "unannotated" in str(raised.value)
    assert store(raw).case_ids() == ("one", "three")


def test_what_becomes_unannotated_is_made_again(raw):
    make_multilabel(raw)
    run(raw)
    make_multilabel(raw, unannotated={"two": ["front"]})
    os.utime(raw / "labelsTr" / "two.nii.gz", (1, 1))
    assert run(raw) == 1
    assert (store(raw).seg("two")[1] == 2).all()
    assert set(np.unique(store(raw).seg("two")[[0, 2]])) == {0, 1}
    make_multilabel(raw, unannotated={"two": ["front", "back"]})
    assert run(raw) == 1
    make_multilabel(raw, unannotated={})
    assert run(raw) == 1


def test_a_region_of_interest_added_changed_or_removed_is_noticed(raw):
    run(raw)
    mask = np.zeros((6, 7, 8), np.uint8)
    mask[:3] = 1
    path = raw / "masksTr" / "two.nii.gz"
    write(path, mask)
    assert run(raw) == 1
    seg = store(raw).seg("two")[0]
    assert (seg[3:] == 2).all()
    assert set(np.unique(seg[:3])) == {0, 1}
    write(path, 1 - mask)
    assert run(raw) == 1
    assert (store(raw).seg("two")[0, :3] == 2).all()
    path.unlink()
    path.parent.rmdir()
    assert run(raw) == 1
    assert set(np.unique(store(raw).seg("two"))) == {0, 1}
    assert run(raw) == 0


def test_voxels_in_a_file_beside_the_header_are_noticed(raw):
    for path in raw.glob("*Tr/*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ".mhd"))
        path.unlink()
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**content, "file_ending": ".mhd"}))
    assert run(raw) == 3
    voxels = raw / "labelsTr" / "two.raw"
    voxels.write_bytes(bytes(len(voxels.read_bytes())))
    assert run(raw) == 1
    assert not store(raw).seg("two").any()
