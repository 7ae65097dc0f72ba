#!/usr/bin/env python3
"""Start-up: how long the command line takes to answer, against nnU-Net's.

scripts/bench_startup.py --peer FOLDER
"""

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

from benchmarking import Row, alternate, parse, program, run, save
from floors import floor_of_command

VERIFY = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    verify_dataset_integrity(sys.argv[1], 1)
"""


def main() -> None:
    """Measure ``--help`` and the check of a data set of one case."""
    options = parse(__doc__, repeats=7).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = one_case(options.data / "Dataset004_Hippocampus", Path(folder))
        env = {f"nnUNet_{name}": folder for name in ("raw", "preprocessed", "results")}
        commands = {
            "help": [program(options, "segkit"), "--help"],
            "help, peer": [program(options, "nnUNetv2_plan_and_preprocess"), "--help"],
            "validate": [program(options, "segkit"), "validate", dataset],
            "validate, peer": [program(options, "python"), "-c", VERIFY, dataset],
        }
        sides = {name: partial(run, command, env=env) for name, command in commands.items()}
        found = alternate(sides, options.repeats)
        python, files = program(options, "python"), sorted(dataset.rglob("*.gz"))
        floors = floor_of_command(python), floor_of_command(python, files)
    rows = [
        Row(
            what="--help",
            segkit=found["help"],
            peer=found["help, peer"],
            wanted=8,
            floor=floors[0],
        ),
        Row(
            what="validate one case",
            segkit=found["validate"],
            peer=found["validate, peer"],
            wanted=8,
            equal="the peer's check alone, without the fingerprint its command measures after it",
            floor=floors[1],
        ),
    ]
    save(options, "startup", rows)


def one_case(source: Path, folder: Path) -> Path:
    """Copy the first case of a data set, as a data set of its own."""
    target = folder / source.name
    content = json.loads((source / "dataset.json").read_text())
    label = sorted((source / "labelsTr").glob("*.nii.gz"))[0]
    case = label.name.removesuffix(".nii.gz")
    for kind, pattern in (("imagesTr", f"{case}_*.nii.gz"), ("labelsTr", label.name)):
        (target / kind).mkdir(parents=True)
        for path in (source / kind).glob(pattern):
            shutil.copy(path, target / kind)
    content["numTraining"] = 1
    (target / "dataset.json").write_text(json.dumps(content))
    return target


if __name__ == "__main__":
    main()
