#!/usr/bin/env python3
"""Fine-tune a model onto other channels and classes, and compare it with a start from scratch.

    scripts/bench_finetune.py ../shared/data/Dataset004_Hippocampus /scratch/finetune

The source model is trained on the dataset as it is: one channel and two classes. The dataset to go
to is made from the same images: a second channel holds the image smoothed, and a plane through each
posterior part splits it in two, so that there are three classes. Its fold 0 is trained twice for
the same few steps with the same seed, from random weights and with --pretrained, and the Dice on
the same validation patches is printed after every few steps. Both folds leave out the same cases.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

POSTERIOR, TAIL = 2, 3
SMOOTHED_VOXELS = 1.5
STARTS = ("scratch", "fine-tuned")


def main() -> None:
    """Make the datasets, train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path, help="where everything is made")
    parser.add_argument("--time-budget", default="4m", help="of the source model")
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--steps", type=int, default=10, help="between two validations")
    parser.add_argument("--rounds", type=int, default=6, help="how many validations")
    options = parser.parse_args()
    source = options.folder / "source" / options.dataset.name
    model = source / "models" / f"default_{options.configuration}"
    if not (model / "fold_0" / "final.pt").exists():
        prepare(options.dataset, source.parent, options.configuration)
        budget = ("--time-budget", options.time_budget, "--overwrite")
        segkit("train", options.dataset, options.configuration, "-w", source.parent, *budget)
    target = options.folder / "Dataset904_TwoChannels"
    if not target.exists():
        derive(options.dataset, target)
    prepare(target, options.folder / "target", options.configuration)
    print_table({start: dice_of(start, target, model, options) for start in STARTS})


def derive(source: Path, target: Path) -> None:
    """Write the dataset with a second channel and a third class."""
    unfinished = target.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source / "imagesTr", unfinished / "imagesTr")
    (unfinished / "labelsTr").mkdir()
    for path in sorted((source / "imagesTr").glob("*_0000.nii.gz")):
        image = nib.load(path)
        smooth = ndimage.gaussian_filter(image.get_fdata(dtype=np.float32), SMOOTHED_VOXELS)
        second = path.name.replace("_0000", "_0001")
        nib.save(nib.Nifti1Image(smooth, image.affine), unfinished / "imagesTr" / second)
    for path in sorted((source / "labelsTr").glob("*.nii.gz")):
        labels = nib.load(path)
        parted = split(np.asanyarray(labels.dataobj).astype(np.uint8))
        nib.save(nib.Nifti1Image(parted, labels.affine), unfinished / "labelsTr" / path.name)
    content = json.loads((source / "dataset.json").read_text())
    content["channel_names"] |= {"1": "smoothed"}
    content["labels"] |= {"Tail": TAIL}
    (unfinished / "dataset.json").write_text(json.dumps(content))
    unfinished.rename(target)


def split(labels: np.ndarray) -> np.ndarray:
    """Give the far half of the posterior part, along the second axis, a label of its own."""
    parted = labels.copy()
    places = np.argwhere(labels == POSTERIOR)
    if len(places):
        plane = np.median(places[:, 1])
        far = np.arange(labels.shape[1])[None, :, None] < plane
        parted[(labels == POSTERIOR) & far] = TAIL
    return parted


def prepare(dataset: Path, work: Path, configuration: str) -> None:
    """Plan and preprocess."""
    segkit("plan_and_preprocess", dataset, "-w", work, "-c", configuration)


def dice_of(start: str, target: Path, model: Path, options: argparse.Namespace) -> list[dict]:
    """Train the few steps and return what the log says of every validation."""
    begin = ("--pretrained", model) if start == "fine-tuned" else ()
    work = options.folder / f"run_{start}"
    shutil.copytree(options.folder / "target", work, dirs_exist_ok=True)
    settings = (
        f"schedule.epochs={options.rounds}",
        f"schedule.iterations_per_epoch={options.steps}",
        "schedule.validation_iterations=20",
        "sampling.batch_size=2",
        "final_validation=false",
    )
    train = ("train", target, options.configuration, "-w", work, "--overwrite")
    segkit(*train, "--set", *settings, *begin)
    fold = work / target.name / "models" / f"default_{options.configuration}" / "fold_0"
    return [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]


def print_table(logs: dict[str, list[dict]]) -> None:
    """One line a validation, then the classes at the end."""
    print(f"\n{'steps':>6}" + "".join(f"{start:>12}" for start in STARTS))
    steps = 0
    for records in zip(*logs.values(), strict=True):
        steps += records[0]["iterations"]
        print(f"{steps:>6}" + "".join(f"{record['mean_dice']:>12.3f}" for record in records))
    for start in STARTS:
        dice = ", ".join(f"{name} {x:.3f}" for name, x in logs[start][-1]["dice"].items())
        print(f"{start}, at the end: {dice}")


def segkit(*words: object) -> None:
    """Run a command of the command line; its messages go to stderr."""
    command = [sys.executable, "-m", "segkit", *map(str, words)]
    subprocess.run(command, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
