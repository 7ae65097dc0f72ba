"""What a recipe can say of training, through the real command line, on small data of our own."""

import json

import nibabel as nib
import numpy as np
import pytest

from segkit.cli.main import main

CASES = ("a", "b", "c", "d", "e")
TINY = ("sampling.patch_size=[8,8,8]", "sampling.batch_size=2")
EVERYTHING = (
    *("optimizer.name=adamw", "annealing=cosine", "warmup=0.25", "accumulate=2"),
    *("gradient_clip=null", "averaging.decay=0.9", "sampling.foreground=probabilistic"),
    *("cross_entropy=topk", "label_smoothing=0.1", "one_vs_rest=true", "early_stopping=5"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Bright balls in noise, planned and preprocessed."""
    root = tmp_path_factory.mktemp("training")
    raw, rng = root / "raw" / "Dataset044_Balls", np.random.default_rng(0)
    grid = np.mgrid[:16, :14, :12]
    for case in CASES:
        centre = rng.integers(5, 8, (3, 1, 1, 1))
        inside = ((grid - centre) ** 2).sum(0) < 16
        image = (rng.normal(100, 10, inside.shape) + 60 * inside).astype(np.float32)
        for folder, name, array in (
            ("imagesTr", f"{case}_0000", image),
            ("labelsTr", case, inside.astype(np.uint8)),
        ):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), str(raw / folder / f"{name}.nii.gz"))
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    assert main(["plan_and_preprocess", "44", "-w", str(root), "-j", "1", "-q"]) == 0
    return root


@pytest.fixture
def segkit(work, capsys):
    """Run a command on the dataset; returns what it wrote."""

    def run(command, *arguments, code=0, settings=()):
        where = ("-w", str(work), "--device", "cpu", "-j", "1", "--recipe", "debug")
        found = main([command, "44", *map(str, arguments), *where, "--set", *TINY, *settings])
        told = capsys.readouterr()
        assert found == code, told.err
        assert "Traceback" not in told.err
        return told

    return run


def folder_of(work, fold):
    return work / "Dataset044_Balls" / "models" / "default_3d_fullres_debug" / f"fold_{fold}"


def test_every_kind_of_training_has_a_value(work, segkit):
    told = segkit("train", "3d_fullres", "--deterministic", settings=EVERYTHING)
    assert "foreground mean" in told.out
    fold = folder_of(work, 0)
    assert all((fold / f"{name}.pt").is_file() for name in ("last", "best", "final"))
    record = json.loads((fold / "recipe.json").read_text())
    resolved = record["resolved"]
    assert (resolved["optimizer"]["learning_rate"], resolved["optimizer"]["weight_decay"]) == (
        1e-3,
        1e-2,
    )
    assert resolved["precision"] in ("fp32", "bf16")
    assert (resolved["compile"], resolved["deterministic"]) == ("off", True)
    assert record["requested"]["optimizer"]["learning_rate"] is None
    # It goes on with all of that, without being told again.
    assert (
        "trained 3 epochs" in segkit("train", "3d_fullres", "--resume", settings=["epochs=3"]).out
    )


def test_fold_all_is_trained_on_every_case_and_not_judged_on_them(work, segkit):
    told = segkit("train", "3d_fullres", "--fold", "all", settings=["early_stopping=9"])
    assert "the Dice during training is of cases that are trained on" in told.err
    assert "early_stopping cannot tell" in told.err
    assert "fold all was trained on every case: there is none to validate it on" in told.out
    fold = folder_of(work, "all")
    assert (fold / "best.pt").is_file()
    assert not (fold / "validation").exists()
    done = segkit("run", "-c", "3d_fullres", "--fold", "all", settings=["early_stopping=9"])
    assert "trained on every case, so there is none to validate it on" in done.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.name=adan2"], "'adan2' is not allowed"),
        (["optimizer.name=adamw", "momentum=0.9"], "momentum has no effect unless name is sgd"),
        (["compile=maybe"], "'maybe' is not allowed"),
        (["early_stopping=3", "validation_iterations=0"], "early_stopping needs a Dice"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(work, segkit, settings, message):
    told = segkit("train", "3d_fullres", "--fold", 3, settings=settings, code=1)
    assert message in told.err
    assert not folder_of(work, 3).exists()
