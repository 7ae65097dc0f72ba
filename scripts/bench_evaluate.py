#!/usr/bin/env python3
"""Evaluation: Dice of predictions on disk, against nnUNetv2_evaluate_folder.

scripts/bench_evaluate.py --peer FOLDER
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from benchmarking import Row, Sample, alternate, parse, program, run, save
from floors import floor_of_command
from scipy import ndimage

DISTANCES = ["dice", "hd95_mm", "assd_mm", "nsd"]
CT_SHAPE, CT_CLASSES, CT_CASES = (256, 256, 200), 30, 4


def main() -> None:
    """Measure many small cases, a few large ones, and what distances cost."""
    options = parse(__doc__, repeats=5).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = write_set(Path(folder) / "small", hippocampus(options.data))
        large = write_set(Path(folder) / "large", ct(options.data))
        shape = "x".join(map(str, CT_SHAPE))
        large_name = f"{CT_CASES} cases of {shape}, {CT_CLASSES} classes"
        rows = [
            compare(options, small, "52 cases of Hippocampus", wanted=8),
            compare(options, large, large_name, wanted=None),
            distances(options, small, "52 cases of Hippocampus"),
            distances(options, large, large_name),
        ]
    save(options, "evaluate", rows)


def compare(options: argparse.Namespace, folder: Path, what: str, wanted: float | None) -> Row:
    """Measure both sides and compare their scores."""
    sides: dict[str, Callable[[], Sample]] = {
        "segkit": lambda: evaluate(options, folder),
        "peer": lambda: evaluate_by_peer(options, folder),
    }
    found = alternate(sides, options.repeats)
    ours, theirs = scores(folder), peer_scores(folder)
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{what}: the two sides scored different targets")
    apart = max(abs(ours[key] - theirs[key]) for key in ours)
    equal = f"{len(ours)} values of Dice apart by at most {apart:.1e}"
    return Row(
        what=what,
        segkit=found["segkit"],
        peer=found["peer"],
        wanted=wanted,
        equal=equal,
        floor=floor_of_command(program(options, "python"), sorted(folder.rglob("*.nii.gz"))),
    )


def distances(options: argparse.Namespace, folder: Path, what: str) -> Row:
    """Measure Dice and distances between surfaces, which the peer has not."""
    sides = {"segkit": lambda: evaluate(options, folder, "--metrics", *DISTANCES)}
    found = alternate(sides, options.repeats)
    return Row(what=f"{what}, with hd95, assd and nsd", segkit=found["segkit"], peer=())


def evaluate(options: argparse.Namespace, folder: Path, *more: str) -> Sample:
    """Run ``segkit evaluate``."""
    files = ["-p", folder / "pred", "-r", folder / "ref", "-d", folder / "dataset.json"]
    return run([program(options, "segkit"), "evaluate", *files, "-o", folder / "segkit", *more])


def evaluate_by_peer(options: argparse.Namespace, folder: Path) -> Sample:
    """Run nnU-Net's evaluation as its users do, with its default number of processes."""
    files = ["-djfile", folder / "dataset.json", "-pfile", folder / "plans.json"]
    command = [program(options, "nnUNetv2_evaluate_folder"), folder / "ref", folder / "pred"]
    env = {f"nnUNet_{name}": str(folder) for name in ("raw", "preprocessed", "results")}
    return run([*command, *files, "-o", folder / "peer.json"], env=env)


def scores(folder: Path) -> dict[tuple[str, str], float]:
    """Return Dice by case and label, where it is defined."""
    cases = json.loads((folder / "segkit" / "summary.json").read_text())["cases"]
    return {
        (case["case"], label): target["dice"]
        for case in cases
        for label, target in case["labels"].items()
        if target["dice"] is not None
    }


def peer_scores(folder: Path) -> dict[tuple[str, str], float]:
    """Return what the peer wrote like :func:`scores`."""
    names = {v: k for k, v in json.loads((folder / "dataset.json").read_text())["labels"].items()}
    found = {}
    for case in json.loads((folder / "peer.json").read_text())["metric_per_case"]:
        name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
        for value, target in case["metrics"].items():
            if not np.isnan(target["Dice"]):
                found[name, names[int(value)]] = target["Dice"]
    return found


Maps = tuple[dict, Iterator[tuple[str, np.ndarray, np.ndarray]]]
"""Labels of a data set, and its cases: name, label map, affine."""


def hippocampus(data: Path) -> Maps:
    """Return the first 52 label maps of Hippocampus."""
    source = data / "Dataset004_Hippocampus"
    files = sorted((source / "labelsTr").glob("*.nii.gz"))[:52]
    images = ((path.name, nib.load(path)) for path in files)
    maps = ((name, np.asanyarray(image.dataobj), image.affine) for name, image in images)
    return json.loads((source / "dataset.json").read_text())["labels"], maps


def ct(data: Path) -> Maps:
    """Return a CT's label map brought to the size of an abdomen, mirrored in several ways."""
    image = nib.load(data / "Dataset130_TotalSegCT" / "labelsTr" / "ts_ct_full.nii.gz")
    labels = np.asanyarray(image.dataobj)
    labels = np.where(labels <= CT_CLASSES, labels, 0).astype(np.uint8)
    labels = ndimage.zoom(labels, np.divide(CT_SHAPE, labels.shape), order=0)
    mirrors = [(), (0,), (1,), (0, 1)][:CT_CASES]
    maps = ((f"ct_{i}.nii.gz", np.flip(labels, axes), np.eye(4)) for i, axes in enumerate(mirrors))
    return {"background": 0, **{f"class {i}": i for i in range(1, CT_CLASSES + 1)}}, maps


def write_set(folder: Path, maps: Maps) -> Path:
    """Write references, predictions made from them, and the description of both sides."""
    labels, cases = maps
    for kind in ("ref", "pred"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, labels_xyz, affine in cases:
        for kind, array in (("ref", labels_xyz), ("pred", disturbed(labels_xyz, rng))):
            nib.save(nib.Nifti1Image(array, affine), folder / kind / name)
    channels = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    content = {**channels, "labels": labels, "numTraining": len(list((folder / "ref").iterdir()))}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "plans.json").write_text(json.dumps({"label_manager": "LabelManager"}))
    return folder


def disturbed(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift a label map by up to a voxel an axis, and lose one voxel in a hundred."""
    shifted = np.roll(labels, rng.integers(-1, 2, 3), (0, 1, 2))
    return np.where(rng.random(labels.shape, dtype=np.float32) < 0.01, 0, shifted)


if __name__ == "__main__":
    main()
