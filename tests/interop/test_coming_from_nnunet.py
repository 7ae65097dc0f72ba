"""Every command, and every value, of the page for users of nnU-Net is run, on tiny data."""

import json
import re
import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunet_files import plans, write_trained

from segkit.cli.main import main
from segkit.config import load_recipe

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "coming-from-nnunet.md").read_text()
COMMANDS = re.findall(r"`(segkit [^`]*[^`\s])`", PAGE)
VALUES = list(dict.fromkeys(re.findall(r"`((?:--recipe|--set) [^`]+)`", PAGE)))
ALONE = re.findall(r"`([a-z_.]+=[^`]+)`", PAGE)
"""Values without the flag before them."""
CASES = [f"p{i}_scan{j}" for i in range(5) for j in (1, 2)]
SHAPE = (12, 20, 16)
SHORT = [
    *("schedule.epochs=1", "schedule.iterations_per_epoch=1", "schedule.validation_iterations=1"),
    *("sampling.batch_size=2", "precision=fp32"),
]
"""Added to whatever trains."""
FIRST = {
    "segkit ensemble": [
        "segkit train 4 2d --fold 0",
        "segkit predict -i imagesTs -o predictions_a -d 4 -c 3d_fullres --save-probabilities",
        "segkit predict -i imagesTs -o predictions_b -d 4 -c 2d --save-probabilities",
    ],
    "segkit run 5": ["segkit plan 5 --gpu-memory-gb 0.006"],
    "segkit train 4 2d --planner resenc_l": ["segkit preprocess 4 -c 2d --planner resenc_l"],
}
"""What the page takes for granted before a command."""
KNOWN = ("cases.csv", "mine.yaml", "model.zip", "nnUNetPlans.json")


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), path)


def make_case(rng, shape=SHAPE):
    """Draw two bright boxes, one in the other."""
    label = np.zeros(shape, np.uint8)
    label[3:9, 4:-5, 4:-4] = 1
    label[5:8, 6:-8, 6:-6] = 2
    return (rng.normal(100, 9, shape) + 40 * label).astype(np.float32), label


def make_dataset(folder, cases, shape=SHAPE, **changes):
    rng = np.random.default_rng(0)
    for case in cases:
        image, label = make_case(rng, shape)
        write_image(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        write_image(folder / "labelsTr" / f"{case}.nii.gz", label)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content | changes))


def make_old_dataset(folder, names):
    """Write a dataset as the Decathlon and nnU-Net v1 describe it, with these image names."""
    rng = np.random.default_rng(1)
    image, label = make_case(rng)
    for name in names:
        write_image(folder / "imagesTr" / name, image)
    write_image(folder / "labelsTr" / "a.nii.gz", label)
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that the page names."""
    folder = tmp_path_factory.mktemp("page")
    make_dataset(folder / "raw" / "Dataset004_Hippocampus", CASES)
    make_dataset(folder / "raw" / "Dataset005_Large", CASES[:5], (24, 26, 28))
    make_dataset(folder / "raw" / "Dataset006_Scans", CASES)
    rng = np.random.default_rng(2)
    for case in "xy":
        image, label = make_case(rng)
        write_image(folder / "imagesTs" / f"{case}_0000.nii.gz", image)
        write_image(folder / "labelsTs" / f"{case}.nii.gz", label)
    make_old_dataset(folder / "Task04_Hippocampus", ["a.nii.gz"])
    make_old_dataset(folder / "Task017_Old", ["a_0000.nii.gz"])
    source = "raw/Dataset004_Hippocampus"
    row = f"{source}/imagesTr/{CASES[0]}_0000.nii.gz,{source}/labelsTr/{CASES[0]}.nii.gz"
    (folder / "cases.csv").write_text(f"case,image,label\na,{row}\n")
    (folder / "mine.yaml").write_text("optimizer:\n  learning_rate: 0.005\n")
    trained = write_trained(folder / "results")
    shutil.make_archive(str(folder / "model"), "zip", trained.parent)
    theirs = plans(dataset_name="Dataset004_Hippocampus")
    [planned] = theirs["configurations"].values()
    for key in ("normalization_schemes", "use_mask_for_norm"):
        planned[key] = planned[key][-1:]
    statistics = theirs["foreground_intensity_properties_per_channel"]
    theirs["foreground_intensity_properties_per_channel"] = {"0": statistics["0"]}
    (folder / "nnUNetPlans.json").write_text(json.dumps(theirs))
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("nnUNet_raw", "raw")
    monkeypatch.delenv("SEGKIT_WORKDIR", raising=False)
    return place


def run(command):
    """Run a command of the page, shortened where it trains."""
    name, *arguments = shlex.split(command)[1:]
    arguments = [re.sub(r"^20s$", "2s", argument) for argument in arguments]
    if name == "train" and "--resume" not in arguments:
        arguments += ["--overwrite"]
    if name in ("train", "run"):
        arguments += ["--set", *SHORT]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    jobs = [] if "-j" in arguments else ["-j", "1"]
    assert main([name, *arguments, *device, *jobs]) == 0, command


def test_the_page_has_commands_and_values():
    assert len(COMMANDS) > 40
    assert len(VALUES) > 25
    named = " ".join(COMMANDS)
    assert all(name in named for name in KNOWN)


def test_no_other_page_lists_trainers():
    told = [page.name for page in DOCS.glob("*.md") if "\n| `nnUNetTrainer" in page.read_text()]
    assert told == ["coming-from-nnunet.md"]


@pytest.mark.parametrize("value", [*VALUES, *ALONE])
def test_every_value_is_another_recipe(value):
    words = shlex.split(value)
    recipe = words[words.index("--recipe") + 1] if "--recipe" in words else "default"
    assert load_recipe(recipe, [word for word in words if "=" in word]) != load_recipe("default")


def test_every_command_runs(here):
    for command in dict.fromkeys(COMMANDS):
        for beginning, hidden in FIRST.items():
            if command.startswith(beginning):
                for other in hidden:
                    run(other)
        run(command)


@pytest.mark.parametrize("value", VALUES)
def test_every_value_trains_a_step(here, value):
    """Of the 3D configuration, in a work folder without other models."""
    if not (here / "values").exists():
        run("segkit plan_and_preprocess 4 -c 3d_fullres -w values")
    shutil.rmtree(here / "values" / "Dataset004_Hippocampus" / "models", ignore_errors=True)
    more = "" if "--set" in value else " --set"
    run(f"segkit train 4 3d_fullres -w values {value}{more} final_validation=false")
