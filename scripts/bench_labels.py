#!/usr/bin/env python3
"""Train one dataset with its labels told in five ways, each in the same time, and compare.

    scripts/bench_labels.py ../shared/data/Dataset004_Hippocampus /scratch/labels --time-budget 10m

The dataset has two classes, 1 and 2. Its labels are given plainly, as regions, with an ignore
label painted over 70 % of the slices, as both, and as overlapping structures in bitmasks. Each is
planned, preprocessed and trained (3d_fullres, fold 0), the fold's other cases are predicted, and
the result is compared with the full reference labels. Run it on a machine that does nothing else.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from label_variants import ANTERIOR, POSTERIOR, VARIANTS, derive  # noqa: E402

CLASSES = {"anterior": 1, "posterior": 2}
BITS = {"anterior": ANTERIOR, "posterior": POSTERIOR}


def main() -> None:
    """Measure every variant that was asked for, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("folder", type=Path, help="where everything is made")
    parser.add_argument("--time-budget", default="10m")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    options = parser.parse_args()
    scores = {}
    for variant in options.variants:
        scores[variant] = measure(options.dataset, options.folder, variant, options.time_budget)
        print(row(variant, scores[variant], scores.get("plain")), flush=True)
    far = [variant for variant in scores if "plain" in scores and is_far(variant, scores)]
    if far:
        sys.exit(f"further from the plain labels than allowed: {', '.join(far)}")


def is_far(variant: str, scores: dict[str, dict[str, float]]) -> bool:
    """Tell whether a variant lies further below the plain labels than it may."""
    limit = 0.05 if variant.startswith("sparse") else 0.03
    return mean_dice(scores["plain"]) - mean_dice(scores[variant]) > limit


def mean_dice(scores: dict[str, float]) -> float:
    """Average over the classes."""
    return sum(scores.values()) / len(scores)


def measure(source: Path, folder: Path, variant: str, budget: str) -> dict[str, float]:
    """Train a variant and score it on the full labels; returns the mean Dice of each class."""
    dataset, work = folder / f"raw_{variant}", folder / f"work_{variant}"
    if not dataset.exists():
        derive(source, dataset, variant)
    common = ["-w", str(work)]
    segkit("plan_and_preprocess", str(dataset), "-c", "3d_fullres", *common)
    chosen = ["3d_fullres", "--fold", "0", "--time-budget", budget, "--overwrite"]
    segkit("train", str(dataset), *chosen, *common)
    splits = json.loads((work / dataset.name / "splits.json").read_text())
    cases = splits["folds"][0]["val"]
    inputs = [str(dataset / "imagesTr" / f"{case}_0000.nii.gz") for case in cases]
    output = folder / f"predicted_{variant}"
    segkit(
        "predict", "-i", *inputs, "-o", str(output), "-d", str(dataset), "-c", "3d_fullres", *common
    )
    pairs = [(read(output, case), read(source / "labelsTr", case)) for case in cases]
    return {
        name: float(
            np.mean([dice(mask(pred, name, variant), ref == CLASSES[name]) for pred, ref in pairs])
        )
        for name in CLASSES
    }


def mask(values: np.ndarray, name: str, variant: str) -> np.ndarray:
    """Tell where a prediction has a class."""
    if variant == "structures":
        return (values & BITS[name]) > 0
    return values == CLASSES[name]


def read(folder: Path, case: str) -> np.ndarray:
    """Read a label map."""
    return np.asanyarray(nib.load(folder / f"{case}.nii.gz").dataobj).astype(np.int64)


def dice(pred: np.ndarray, ref: np.ndarray) -> float:
    """Dice of two masks, one of which is not empty."""
    return 2 * float((pred & ref).sum()) / max(float(pred.sum() + ref.sum()), 1.0)


def row(variant: str, scores: dict[str, float], plain: dict[str, float] | None) -> str:
    """Format the scores of a variant, beside those of the plain labels."""
    mean = mean_dice(scores)
    text = f"{variant:16} mean Dice {mean:.4f}  " + "  ".join(
        f"{name} {value:.4f}" for name, value in scores.items()
    )
    if plain is not None:
        text += f"  difference {mean - mean_dice(plain):+.4f}"
    return text


def segkit(*arguments: str) -> None:
    """Run a command as a user would."""
    subprocess.run([sys.executable, "-m", "segkit", *arguments, "-q"], check=True)


if __name__ == "__main__":
    main()
