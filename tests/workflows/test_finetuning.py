"""The command line: a model's weights in a network for other channels and other classes."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from segkit.checkpoint import load_checkpoint
from segkit.cli.main import main
from segkit.dataset.demo import make_demo_dataset

FAST = ("--recipe", "debug", "--device", "cpu", "--set", "final_validation=false")


def command(*words):
    return main([str(word) for word in words])


def prepared(raw, root):
    assert command("plan_and_preprocess", raw, "-w", root, "-j", 1, "-c", "2d") == 0
    return root / raw.name / "models" / "default_2d_debug"


def with_more(source, target):
    """Write a copy with a third channel and a third class, and the classes in another order."""
    shutil.copytree(source, target)
    for path in sorted((target / "imagesTr").glob("*_0000.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0002")))
    for path in sorted((target / "labelsTr").iterdir()):
        image = nib.load(path)
        labels = np.asanyarray(image.dataobj).astype(np.uint8)
        swapped = np.array([0, 2, 1], np.uint8)[labels]
        swapped[: len(swapped) // 2][swapped[: len(swapped) // 2] == 2] = 3
        nib.save(nib.Nifti1Image(swapped, image.affine), path)
    content = json.loads((source / "dataset.json").read_text())
    first, second = (name for name in content["labels"] if name != "background")
    content["labels"] = {"background": 0, second: 1, first: 2, "new": 3}
    content["channel_names"]["2"] = "third"
    (target / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A trained model, and where the one for more channels and classes will be."""
    root = tmp_path_factory.mktemp("finetuning")
    small, large = root / "Dataset001_Small", root / "Dataset002_Large"
    make_demo_dataset(small, cases=5)
    with_more(small, large)
    source, target = prepared(small, root), prepared(large, root)
    assert command("train", small, "2d", "-w", root, *FAST) == 0
    return root, source, large, target


def test_other_channels_and_classes_begin_with_what_fits(models, capsys):
    root, source, large, target = models
    slow = ("optimizer.learning_rate=1e-9", "optimizer.weight_decay=0")
    train = ("train", large, "2d", "-w", root, *FAST, "--overwrite", "--set", *slow)
    assert command(*train, "--pretrained", source) == 0
    told = capsys.readouterr().err
    assert "starting fresh: new" in told
    assert "third begins at 0" in told
    assert "encoder stage 1" in told
    record = json.loads((target / "fold_0" / "pretrained.json").read_text())
    became = {entry["tensor"]: entry["became"] for entry in record["tensors"]}
    assert set(became.values()) == {"loaded", "adapted"}
    assert record["checkpoint"] == str(source / "fold_0" / "final.pt")
    # Steps of next to no length leave the network where it began.
    old, new = (load_checkpoint(m / "fold_0" / "final.pt")["network"] for m in (source, target))
    first = "encoder.stages.0.convs.0.conv.weight"
    np.testing.assert_allclose(new[first][:, :2], old[first], atol=1e-5)
    assert abs(new[first][:, 2]).max() < 1e-5
    heads = [name for name in old if name.startswith("decoder.heads") and name.endswith("bias")]
    for name in heads:
        np.testing.assert_allclose(new[name][:3], old[name][[0, 2, 1]], atol=1e-5)


def test_a_run_that_begins_anew_leaves_no_record_of_other_weights(models):
    root, _, large, target = models
    assert command("train", large, "2d", "-w", root, *FAST, "--overwrite") == 0
    assert not (target / "fold_0" / "pretrained.json").exists()
