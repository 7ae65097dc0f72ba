"""nnU-Net's plans are followed: what is preprocessed is what nnU-Net would train on."""

import json

import numpy as np
import pytest
from nnunet_files import STATISTICS, configuration, plans

from segkit.cli.main import main
from segkit.dataset.image_io import write_labels
from segkit.planning.plan import load_plan
from segkit.preprocessing.store import PreprocessedStore
from segkit.types import Geometry

CASES = [f"c{number}" for number in range(5)]


@pytest.fixture
def dataset(tmp_path):
    """Write five cases with a black rim and a black spot."""
    folder = tmp_path / "Dataset007_Toy"
    geometry = Geometry(spacing_mm=(2.0, 1.0, 1.0))
    for seed, case in enumerate(CASES):
        rng = np.random.default_rng(seed)
        for channel in range(2):
            image = rng.integers(1, 200, (6, 12, 12)).astype(np.uint8)
            image[0, :3] = image[:, :, 0] = 0
            write_labels(folder / "imagesTr" / f"{case}_000{channel}.nii.gz", image, geometry)
        labels = np.zeros((6, 12, 12), np.uint8)
        labels[2:4, 4:8, 4:8], labels[0, 1, 5] = 1, 2
        write_labels(folder / "labelsTr" / f"{case}.nii.gz", labels, geometry)
    content = {
        "channel_names": {"0": "CT", "1": "T2"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    splits = [{"train": CASES[1:], "val": CASES[:1]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def written(tmp_path, **changes):
    path = tmp_path / "nnUNetPlans.json"
    path.write_text(json.dumps(plans(**changes)))
    return path


def test_arrays_are_what_nnunet_would_make(tmp_path, dataset):
    path = written(tmp_path, transpose_forward=[1, 0, 2])
    command = ["plan_and_preprocess", str(dataset), "--plans", str(path), "-w", str(tmp_path / "w")]
    assert main([*command, "-j", "1"]) == 0
    workspace = tmp_path / "w" / dataset.name
    plan = load_plan(workspace / "plans" / "nnUNetPlans.json")
    assert (plan.voxel_rules, plan.orientation, plan.edited) == ("nnunet", None, False)
    assert plan.transpose_forward == (1, 0, 2)
    assert json.loads((workspace / "splits.json").read_text())["folds"][0]["val"] == ["c0"]
    store = PreprocessedStore(workspace / "preprocessed" / "nnUNetPlans_3d_fullres")
    # Planned spacing (2, 1, 1) along y, z, x: 1 mm to 2 along y, 2 mm to 1 along z.
    assert store.image("c0").shape == (2, 6, 12, 11)


def test_normalisation_counts_black_as_nnunet_does(tmp_path, dataset):
    path = written(tmp_path)
    command = ["plan_and_preprocess", str(dataset), "--from", str(path), "-w", str(tmp_path / "w")]
    assert main([*command, "-j", "1"]) == 0
    store = tmp_path / "w" / dataset.name / "preprocessed" / "nnUNetPlans_3d_fullres"
    image, seg = PreprocessedStore(store).image("c3"), PreprocessedStore(store).seg("c3")
    rng = np.random.default_rng(3)
    raw = np.stack([rng.integers(1, 200, (6, 12, 12)) for _ in range(2)]).astype(np.float32)
    raw[:, 0, :3] = raw[..., 0] = 0
    raw = raw[..., 1:]
    inside = raw[0] != 0
    inside[0, 1, 4] = True  # labelled, although black
    clipped = np.clip(raw[0], STATISTICS["percentile_00_5"], STATISTICS["percentile_99_5"])
    expected = (clipped - STATISTICS["mean"]) / STATISTICS["std"]
    np.testing.assert_allclose(image[0], expected, rtol=1e-5, atol=1e-5)
    masked = (raw[1] - raw[1][inside].mean()) / raw[1][inside].std()
    np.testing.assert_allclose(image[1], np.where(inside, masked, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seg[0] == -1, ~inside)


def test_what_is_not_known_here_is_refused(tmp_path, dataset, capsys):
    changed = configuration(preprocessor_name="Mine")
    path = written(tmp_path, configurations={"3d_fullres": changed, "other": configuration()})
    command = ["plan", str(dataset), "--plans", str(path), "-w", str(tmp_path / "w"), "-j", "1"]
    assert main(command) == 1
    assert "the preprocessor 'Mine'" in capsys.readouterr().err
    assert main([*command, "-c", "other"]) == 0


def test_a_trainers_folder_names_its_plans(tmp_path, dataset):
    written(tmp_path).rename(tmp_path / "plans.json")
    command = ["plan", str(dataset), "--plans", str(tmp_path), "-w", str(tmp_path / "w"), "-j", "1"]
    assert main(command) == 0
