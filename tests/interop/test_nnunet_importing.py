"""A results folder becomes a model folder that predicts the same."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_files import DATASET, checkpoint, forward, state_dict, write_cascade, write_trained

from segkit.cli.main import main
from segkit.dataset.image_io import read_labels, write_labels
from segkit.errors import UserError
from segkit.files import read_json
from segkit.inference.model import load_model, load_networks, trained_folds
from segkit.inference.previous import load_previous
from segkit.interop.nnunet.exporting import export_trained
from segkit.interop.nnunet.importing import import_trained, source_hashes, stages_of
from segkit.interop.nnunet.results import Choice, find_trained
from segkit.types import Geometry

NAMES = ("PlainConvUNet", "ResidualEncoderUNet")


def imported(folder, output):
    return import_trained(find_trained(folder, Choice()), output)


@pytest.mark.parametrize("name", NAMES)
def test_every_fold_computes_the_same(tmp_path, name):
    trained = write_trained(tmp_path, name, folds=("0", "1", "all"))
    record = imported(trained, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert trained_folds(tmp_path / "model") == ["0", "1"]
    assert model.settings.mirror_axes == (0, 1, 2)
    assert model.description.labels.output_names == ("background", "a", "b")
    networks = load_networks(model, ["0", "1", "all"], checkpoint="final", device="cpu")
    image = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for seed, network in enumerate(networks):
        expected = forward(state_dict(name, seed=seed), image, name)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
    assert list(record.tensors) == ["fold_0/final.pt", "fold_1/final.pt", "fold_all/final.pt"]
    written = read_json(tmp_path / "model" / "import.json")
    assert (
        written["tensors"]["fold_1/final.pt"]["mapped"] == record.tensors["fold_1/final.pt"].mapped
    )


def test_a_trainer_that_takes_batch_norm_is_followed(tmp_path):
    trained = write_trained(tmp_path)
    weights = state_dict(batch=True)
    torch.save(checkpoint(weights), trained / "fold_0" / "checkpoint_final.pth")
    imported(trained, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert (model.network.norm, model.configuration.network.norm) == ("batch", "instance")
    [network] = load_networks(model, ["0"], checkpoint="final", device="cpu")
    image = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(image), forward(weights, image), rtol=1e-4, atol=1e-5)
    export_trained(model, tmp_path / "out", None)
    content = torch.load(tmp_path / "out" / "fold_0" / "checkpoint_final.pth")
    assert content["network_weights"].keys() == weights.keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer_name": "Other"}, "the trainer 'Other'"),
        ({"inference_allowed_mirroring_axes": None}, "mirror axes ()"),
        ({"network_weights": state_dict(outputs=2)}, "expected (3, 6, 1, 1, 1)"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(tmp_path, changes, message):
    trained = write_trained(tmp_path, folds=("0", "1"))
    content = checkpoint(state_dict(), **changes)
    torch.save(content, trained / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(UserError) as error:
        imported(trained, tmp_path / "model")
    assert message in error.value.what
    assert not (tmp_path / "model").exists()
    assert {path.name for path in tmp_path.iterdir()} == {trained.name}


def test_axes_that_a_2d_network_does_not_have_are_refused(tmp_path):
    trained = write_trained(tmp_path, ndim=2)
    with pytest.raises(UserError, match="mirror axes"):
        imported(trained, tmp_path / "model")


REGIONS = {
    **DATASET,
    "labels": {"background": 0, "whole": [2, 1], "core": [1]},
    "regions_class_order": [2, 1],
}


@pytest.mark.parametrize(("dataset", "order"), [(DATASET, [0, 1, 2, 3]), (REGIONS, [0, 1, 3, 2])])
def test_a_cascade_brings_its_first_stage(tmp_path, dataset, order):
    trained = write_cascade(tmp_path / "results", dataset, outputs=3 if dataset is DATASET else 2)
    record = imported(trained, tmp_path / "model")
    assert (record.previous_stage, record.has_previous_stage) == ("3d_lowres", True)
    model = load_model(tmp_path / "model")
    assert load_previous(model).settings.configuration == "3d_lowres"
    [network] = load_networks(model, ["0"], checkpoint="final", device="cpu")
    # nnU-Net stacks the classes by value, segkit in the order in which they are declared.
    image = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = state_dict(outputs=model.description.labels.num_outputs, inputs=4)
    expected = forward(weights, image[:, order])
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_the_record_names_every_file_and_tells_other_weights(tmp_path):
    trained = write_cascade(tmp_path / "results")
    stages = [trained, trained.with_name("nnUNetTrainer__nnUNetPlans__3d_lowres")]
    parts = ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth")
    before = imported(trained, tmp_path / "model").hashes
    assert list(before) == [f"{stage.name}/{part}" for stage in stages for part in parts]
    file = stages[1] / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    for changed, bias in ((False, 0.0), (True, 1e-3)):
        content["network_weights"]["decoder.seg_layers.0.bias"] += bias
        torch.save(content, file)
        found = source_hashes(stages_of(find_trained(trained, Choice())))
        different = {name for name in found if found[name] != before[name]}
        assert different == ({f"{stages[1].name}/fold_0/{file.name}"} if changed else set())


def test_a_cascade_may_come_without_its_first_stage(tmp_path, capsys):
    trained = write_cascade(tmp_path / "results")
    shutil.rmtree(trained.parent / "nnUNetTrainer__nnUNetPlans__3d_lowres")
    assert main(["import_nnunet", str(trained), "-o", str(tmp_path / "model")]) == 0
    assert "--previous-stage" in capsys.readouterr().out
    assert not (tmp_path / "model" / "previous_stage").exists()


def write_images(folder, cases=2):
    rng = np.random.default_rng(0)
    geometry = Geometry(spacing_mm=(2.0, 1.0, 1.0), origin=(5.0, 6.0, 7.0))
    for case in range(cases):
        for channel in range(2):
            image = rng.integers(1, 100, (5, 12, 10)).astype(np.uint8)
            write_labels(folder / f"c{case}_000{channel}.nii.gz", image, geometry)


def test_the_command_line_imports_and_predicts(tmp_path, capsys):
    trained = write_trained(tmp_path / "Dataset007_Toy")
    write_images(tmp_path / "images")
    command = ["import_nnunet", str(trained.parent), "-o", str(tmp_path / "model")]
    assert main(command) == 0
    assert "48 tensors mapped, 88 copies" in capsys.readouterr().out
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    where = ["-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["predict", "-m", str(tmp_path / "model"), *where]) == 0
    found = read_labels(tmp_path / "out" / "c1.nii.gz")
    assert found.array.shape == (1, 5, 12, 10)
    assert set(np.unique(found.array)) <= {0, 1, 2}


def zipped(folder):
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


@pytest.mark.parametrize("packed", [False, True])
def test_results_are_predicted_with_as_they_are(tmp_path, packed, caplog):
    trained = write_trained(tmp_path / "results" / "Dataset007_Toy")
    shutil.copytree(trained, trained.parent / "nnUNetTrainer__nnUNetPlans__2d")
    write_images(tmp_path / "images", cases=1)
    source = zipped(tmp_path / "results") if packed else tmp_path / "results"
    command = ["predict", "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    command += ["-m", str(source), "-w", str(tmp_path / "work"), "--device", "cpu"]
    with caplog.at_level("INFO", "segkit"):
        assert main(command) == 1
        assert main([*command, "-c", "3d_fullres"]) == 0
        [imported] = (tmp_path / "work" / "imported").iterdir()
        stamp = (imported / "import.json").stat().st_mtime_ns
        assert main([*command, "-c", "3d_fullres"]) == 0
    assert (imported / "import.json").stat().st_mtime_ns == stamp
    assert read_json(imported / "import.json")["source"] == str(source)
    assert (tmp_path / "out" / "c0.nii.gz").exists()


def test_a_harmful_zip_is_refused(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../plans.json", "{}")
    command = ["import_nnunet", str(tmp_path / "evil.zip"), "-o", str(tmp_path / "model")]
    assert main(command) == 1
    assert "leads out of the folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


def test_a_checkpoint_alone_is_no_model(tmp_path, capsys):
    trained = write_trained(tmp_path)
    file = trained / "fold_0" / "checkpoint_final.pth"
    assert main(["import_nnunet", str(file), "-o", str(tmp_path / "model")]) == 1
    assert "a checkpoint alone" in capsys.readouterr().err


def test_only_model_folders_are_replaced(tmp_path, capsys):
    trained = write_trained(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    command = ["import_nnunet", str(trained), "-o", str(tmp_path / "notes"), "--overwrite"]
    assert main(command) == 1
    assert "no such model" in capsys.readouterr().err
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_plans_of_another_data_set_are_refused(tmp_path):
    trained = write_trained(tmp_path)
    content = json.loads((trained / "dataset.json").read_text())
    content["labels"]["c"] = 3
    (trained / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected \\(4, "):
        imported(trained, tmp_path / "model")
