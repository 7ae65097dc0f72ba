"""The Python API: what docs/python.md shows runs, and is the command line's."""

import dataclasses
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import tiny_plan, write_model

import segkit
from segkit.cli.commands import COMMANDS
from segkit.cli.main import main
from segkit.dataset.demo import make_demo_dataset
from segkit.dataset.image_io import read_image, read_labels

DOCS = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
FAST = {
    'time_budget="30m"': 'recipe="debug", device="cpu", '
    'settings={"sampling.patch_size": [8, 32, 32], "precision": "fp32", "epochs": 1}',
    'configurations=["3d_fullres"]': 'configurations="3d_fullres", jobs=1',
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a data set, and what the documentation takes for granted."""
    folder = tmp_path_factory.mktemp("python")
    raw = folder / "Dataset004_Hippocampus"
    make_demo_dataset(raw, cases=5)
    # One channel, as the pages say.
    text = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_text(re.sub(r',\s*"1": "[^"]*"', "", text))
    for path in raw.glob("images*/*_0001.nii.gz"):
        path.unlink()
    for path in raw.glob("*/*.nii.gz"):
        whole = nib.load(path)
        x, y, z = (n // 2 for n in whole.shape)
        part = whole.slicer[x - 16 : x + 16, y - 16 : y + 16, z - 4 : z + 4]
        data = np.asarray(part.dataobj)
        nib.save(nib.Nifti1Image(data, part.affine, part.header), path)
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir()
        shutil.copy(sorted((raw / name).iterdir())[0], folder / name)
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv("SEGKIT_WORKDIR", raising=False)
    monkeypatch.setattr(logging.getLogger("segkit"), "propagate", False)
    return place


def renamed_options():
    """Yield (option, flags) where a function calls an option otherwise than the command line."""
    functions = set(segkit.__all__) & set(COMMANDS)
    for command in {command: None for name, (command, _) in COMMANDS.items() if name in functions}:
        for field in dataclasses.fields(command):
            flags = field.metadata.get("names", ())
            if flags and f"--{field.name.replace('_', '-')}" not in flags:
                yield field.name, flags


def test_every_command_is_a_function_but_those_of_the_machine():
    assert set(COMMANDS) - set(segkit.__all__) == {"demo", "doctor"}
    for name in set(COMMANDS) & set(segkit.__all__):
        assert callable(getattr(segkit, name))
        assert f"`{name}(" in DOCS


@pytest.mark.parametrize(("option", "flags"), [*renamed_options()])
def test_options_with_other_names_are_told(option, flags):
    text = DOCS.partition("Options have the names of the flags")[2].partition("\n\n")[0]
    if option != "inputs":  # an argument
        assert f"`{option}`" in text
    assert all(f"`{flag}`" in text for flag in flags if flag != "--input")


def blocks_with(text):
    return [block for block in BLOCKS if text in block]


def test_what_the_page_shows_runs(inside, capsys):
    (stages,) = blocks_with("segkit.train")
    for shown, fast in FAST.items():
        assert shown in stages
        stages = stages.replace(shown, fast)
    names = {"segkit": segkit}
    exec(stages, names)
    assert names["plan"].configurations.keys() >= {"2d", "3d_fullres"}
    assert names["fold"] == Path("segkit_work/Dataset004_Hippocampus/models").joinpath(
        "default_3d_fullres_debug", "fold_0"
    )
    assert capsys.readouterr().out.splitlines() == [
        str(names["plan"].configurations["3d_fullres"].patch_size),
        str(names["summary"].foreground_mean["dice"]),
    ]
    shutil.copytree(names["fold"].parent, "MODEL")
    (case,) = Path("imagesTs").iterdir()
    case = case.rename("imagesTs/CASE_0000.nii.gz")
    volume = read_image([case])
    names["array"] = volume.array[0]
    actual = {'"auto"': '"cpu"', "(2.0, 1.0, 1.0)": repr(volume.geometry.spacing_mm)}
    others = [block for block in BLOCKS if "segkit.train" not in block and "logging" not in block]
    assert len(others) == 4
    found = []
    for block in others:
        for shown, used in actual.items():
            block = block.replace(shown, used)
        exec(block, names)
        found.append(names["labels"])
    np.testing.assert_array_equal(found[0], found[1])
    assert names["probabilities"].shape == (3, *names["array"].shape)
    assert Path("out/CASE.nii.gz") in names["written"]
    # Taken from the array or from the file, the labels are the same, here and on the command line.
    np.testing.assert_array_equal(read_labels(Path("out/CASE.nii.gz")).array[0], found[0])
    given = ["-i", "imagesTs/CASE_0000.nii.gz", "-o", "cli", "-m", "MODEL", "--device", "cpu"]
    assert main(["predict", *given]) == 0
    np.testing.assert_array_equal(read_labels(Path("cli/CASE.nii.gz")).array[0], found[0])


def test_the_functions_return_what_the_commands_make(inside):
    report = segkit.validate(inside / "Dataset004_Hippocampus", jobs=1)
    assert report.ok
    assert report.cases == 5
    mending = segkit.validate("Dataset004_Hippocampus", fix="mended", jobs=1)
    assert mending.ok
    plan = segkit.plan("Dataset004_Hippocampus", workdir="other", jobs=1)
    folders = segkit.preprocess(
        "Dataset004_Hippocampus", workdir="other", configurations=["2d"], jobs=1
    )
    assert plan.configurations.keys() >= {"2d", "3d_fullres"}
    assert folders.keys() == {"2d"}
    assert len(list(folders["2d"].glob("*_seg.npy"))) == 5
    result = segkit.run(
        "Dataset004_Hippocampus",
        workdir="other",
        configurations="2d",
        recipe="debug",
        folds=[0],
        settings=["sampling.patch_size=[32,32]"],
        device="cpu",
        jobs=1,
    )
    assert result.model == Path("other/Dataset004_Hippocampus/models/default_2d_debug")
    assert len(result.summary.cases) == 1
    assert segkit.Predictor.from_folder(result.model, device="cpu").output_names[0] == "background"
    work = {"workdir": "other", "device": "cpu", "jobs": 1}
    assert segkit.crossval("Dataset004_Hippocampus", "2d", **work) == result.summary
    best = segkit.find_best("Dataset004_Hippocampus", folds=0, **work)
    assert best.model == Path("other/Dataset004_Hippocampus/best")
    assert best.summary == result.summary
    written = {}
    for name, mirrored in (("one", True), ("two", False)):
        how = {"no_tta": not mirrored, "save_probabilities": True, "device": "cpu"}
        written[name] = segkit.predict("imagesTs", name, models=best.model, **how)
    names = [path.name for path in written["one"]]
    averaged = segkit.ensemble(["one", "two"], "averaged", jobs=1)
    assert averaged == tuple(Path("averaged", name) for name in names)
    labels = "Dataset004_Hippocampus/labelsTr"
    rules = segkit.postprocess(
        fit=True,
        predictions=result.model / "fold_0" / "validation",
        references=labels,
        description=result.model / "dataset.json",
        output="rules.json",
        jobs=1,
    )
    assert rules.rules == ()
    done = segkit.postprocess(input="one", output="done", rules="rules.json", jobs=1)
    assert done == tuple(Path("done", name) for name in names)
    for before, after in zip(written["one"], done, strict=True):
        np.testing.assert_array_equal(read_labels(before).array, read_labels(after).array)


def test_pictures_conversions_and_exchanged_models_are_paths(inside, capsys):
    segkit.plan_and_preprocess(
        "Dataset004_Hippocampus", workdir="third", configurations="2d", jobs=1
    )
    picture = segkit.preview(
        "Dataset004_Hippocampus", "2d", workdir="third", patches=1, output="preview.png"
    )
    assert picture == Path("preview.png")
    assert picture.is_file()
    pictures = segkit.overlay("Dataset004_Hippocampus", "pictures", jobs=1)
    assert len(pictures) == 5
    assert all(path.is_file() for path in pictures)
    image = next(Path("Dataset004_Hippocampus/imagesTr").iterdir())
    label = Path("Dataset004_Hippocampus/labelsTr", image.name.replace("_0000", ""))
    Path("list.csv").write_text(f"case,image_T1,label\nx,{image},{label}\n")
    made = segkit.convert("list.csv", "converted", jobs=1)
    assert made == Path("converted")
    assert segkit.validate(made, jobs=1).ok
    model = write_model(Path("tiny") / "model", tiny_plan(channels=("MR",)))
    exported = segkit.export_nnunet(model, "exported")
    assert exported == Path("exported")
    assert segkit.import_nnunet(exported, "imported") == Path("imported")
    assert segkit.Predictor.from_folder("imported", device="cpu").output_names == (
        segkit.Predictor.from_folder(model, device="cpu").output_names
    )
    with pytest.raises(segkit.UserError, match="there is a model in the output folder"):
        segkit.export_nnunet(model, "exported")
    assert capsys.readouterr().out == ""


def test_a_data_set_with_problems_does_not_run(inside):
    shutil.copytree("Dataset004_Hippocampus", "broken")
    next(Path("broken/labelsTr").iterdir()).unlink()
    assert not segkit.validate("broken", jobs=1).ok
    with pytest.raises(segkit.UserError, match="SK-F006"):
        segkit.run("broken", jobs=1)


def test_importing_segkit_imports_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import segkit; "
        "print(*(set(sys.modules) - before)); segkit.validate; "
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new, heavy = done.stdout.splitlines()
    assert {name for name in new.split() if name.startswith("segkit")} == {"segkit"}
    assert heavy == "False False"
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        _ = segkit.predictor
    assert {"Predictor", "UserError", "run"} <= set(dir(segkit))
