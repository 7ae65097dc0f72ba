#!/usr/bin/env python3
"""Does a model of nnU-Net predict the same in segkit, and a model of segkit in nnU-Net?

scripts/compare_nnunet.py --peer FOLDER [--only NAME ...] [--work KEPT]

For every scenario nnU-Net plans, preprocesses and trains a tiny model for some steps, on a few real
or made cases; segkit imports it, and both predict the same images. Exits with 1 where they differ.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import measured, parse, run_side

IDENTICAL, DICE, LOGITS = 0.9995, 0.999, 1e-3
"""At least this share of the voxels, and this Dice, on every case; logits at most so far apart."""
_DATASET = "Dataset900_Compared"
_FOLDERS = ("raw", "preprocessed", "results")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What nnU-Net trains."""

    what: str
    make: Callable[[Path, Path], None]
    """Writes the raw data set, given its folder and the folder of the real data sets."""
    planner: str = "ExperimentPlanner"
    plans: str = "nnUNetPlans"
    configuration: str = "3d_fullres"
    stages: int = 3
    patch_size: tuple[int, ...] = (24, 24, 24)
    steps: int = 300
    trainer: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the trainer that are set before it begins."""


def main() -> None:
    """Run every scenario in the peer's environment; print one table."""
    parser = parse(__doc__, repeats=1)
    parser.add_argument("--work", type=Path, help="keep what is made here, for the next time")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--scenario", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        _run_scenario(options.scenario, options.work, options.data)
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        rows = {}
        for name in options.only:
            folder = work / name
            folder.mkdir(parents=True, exist_ok=True)
            made = ("--scenario", name, "--work", folder)
            sample = run_side(options, "scenario", *made, env=_environment(folder))
            rows[name] = {**sample.result, "seconds": sample.seconds}
            print(_line(SCENARIOS[name].what, rows[name]), file=sys.stderr, flush=True)
    print("\n".join(_table(rows)))
    sys.exit(any(_failures(row) for row in rows.values()))


def _environment(folder: Path) -> dict[str, str]:
    made = {f"nnUNet_{kind}": str(folder / kind) for kind in _FOLDERS}
    return {**made, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}


def _table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    head = "| model | cases | foreground | identical voxels | Dice | logits apart | seconds | |"
    lines = [_line(SCENARIOS[name].what, row) for name, row in rows.items()]
    return [head, "|---" * 8 + "|", *lines]


def _line(what: str, row: Mapping[str, Any]) -> str:
    cells = [
        what,
        str(row["cases"]),
        f"{row['foreground']:.1%}",
        f"{row['identical']:.4%}",
        f"{row['dice']:.5f}",
        f"{row['logits']:.1e}",
        f"{row['seconds']:.0f}",
        "; ".join(_failures(row)) or "as asked",
    ]
    return f"| {' | '.join(cells)} |"


def _failures(row: Mapping[str, Any]) -> list[str]:
    wanted = {
        f"identical below {IDENTICAL:.2%}": row["identical"] >= IDENTICAL,
        f"Dice below {DICE}": row["dice"] >= DICE,
        f"logits more than {LOGITS} apart": row["logits"] <= LOGITS,
        "nothing predicted": row["foreground"] > 0,
    }
    return [text for text, holds in wanted.items() if not holds]


# What follows runs in the peer's environment, where nnU-Net and segkit can be imported.


def _run_scenario(name: str, work: Path, data: Path) -> None:
    scenario = SCENARIOS[name]
    trained = work / "results" / _DATASET
    trained = trained / f"nnUNetTrainer__{scenario.plans}__{scenario.configuration}"
    if not (trained / "fold_0" / "checkpoint_final.pth").exists():
        shutil.rmtree(work)
        scenario.make(work / "raw" / _DATASET, data)
        _train(scenario, work)
    images = work / "raw" / _DATASET / "imagesTr"
    predictor = _peer_predictor(trained)
    with measured() as row:
        _segkit_predict(trained, work, images)
        _peer_predict(predictor, images, work / "peer")
        row.update(_compare_labels(work / "segkit", work / "peer"))
        row["logits"] = max(_logits_apart(predictor, work / "model", images))


def _train(scenario: Scenario, work: Path) -> None:
    """Let nnU-Net plan and preprocess, make its network tiny, and train it."""
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    number = int(_DATASET[7:10])
    api.extract_fingerprints([number], num_processes=1, check_dataset_integrity=True)
    api.plan_experiments([number], experiment_planner_class_name=scenario.planner)
    file = work / "preprocessed" / _DATASET / f"{scenario.plans}.json"
    plans = json.loads(file.read_text())
    _shrink(plans["configurations"][scenario.configuration], scenario)
    file.write_text(json.dumps(plans))
    where = {"plans_identifier": scenario.plans, "configurations": [scenario.configuration]}
    api.preprocess([number], num_processes=[1], **where)
    os.environ["nnUNet_n_proc_DA"] = "0"
    description = json.loads((work / "raw" / _DATASET / "dataset.json").read_text())
    torch.manual_seed(0)
    np.random.seed(0)
    plans["continue_training"] = False
    given = (plans, scenario.configuration, 0, description)
    trainer = nnUNetTrainer(*given, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, scenario.steps
    trainer.num_val_iterations_per_epoch = 1
    for key, value in scenario.trainer.items():
        setattr(trainer, key, value)
    trainer.run_training()


def _shrink(configuration: dict[str, Any], scenario: Scenario) -> None:
    """Keep the first stages, with few features, and take a small patch and batch."""
    count, arguments = scenario.stages, configuration["architecture"]["arch_kwargs"]
    for key, value in arguments.items():
        if isinstance(value, list):
            arguments[key] = value[: count - (key == "n_conv_per_stage_decoder")]
    arguments["n_stages"] = count
    arguments["features_per_stage"] = [8 * 2**stage for stage in range(count)]
    configuration["patch_size"] = list(scenario.patch_size)
    configuration["batch_size"] = 2


def _peer_predictor(trained: Path) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained), (0,))
    return predictor


def _peer_predict(predictor: Any, images: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    predictor.predict_from_files_sequential(str(images), str(output))


def _segkit_predict(trained: Path, work: Path, images: Path) -> None:
    _segkit("import_nnunet", trained, "-o", work / "model", "--overwrite")
    shutil.rmtree(work / "segkit", ignore_errors=True)
    how = ("--precision", "fp32", "--device", "cpu")
    _segkit("predict", "-m", work / "model", "-i", images, "-o", work / "segkit", *how)


def _segkit(*arguments: object) -> None:
    from segkit.cli.main import main

    if main(["-q" if a is None else str(a) for a in arguments]):
        sys.exit(f"segkit {' '.join(map(str, arguments))} failed")


def _compare_labels(ours: Path, theirs: Path) -> dict[str, Any]:
    """Compare all label maps in two folders; returns the worst of every measure."""
    from segkit.dataset.image_io import KNOWN_ENDINGS, read_labels

    files = [path for path in sorted(ours.iterdir()) if path.name.endswith(KNOWN_ENDINGS)]
    pairs = [(read_labels(path).array, read_labels(theirs / path.name).array) for path in files]
    return {
        "cases": len(pairs),
        "foreground": float(np.mean([(b > 0).mean() for _, b in pairs])),
        "identical": float(min((a == b).mean() for a, b in pairs)),
        "dice": min(_lowest_dice(a, b) for a, b in pairs),
    }


def _lowest_dice(one: np.ndarray, other: np.ndarray) -> float:
    """Return the lowest Dice of all labels that occur."""
    found = [1.0]
    for label in np.union1d(one, other)[1:]:
        a, b = one == label, other == label
        found.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return min(found)


def _logits_apart(predictor: Any, model: Path, images: Path) -> list[float]:
    """Return how far the logits of both are apart in every case, before they are resampled."""
    import torch
    from nnunetv2.inference import predict_from_raw_data as peer

    from segkit.dataset.cases import images_to_predict
    from segkit.workflows.models import Loading, load_models

    loading = Loading(device=torch.device("cpu"), precision="fp32")
    own: Any = load_models({model: 1.0}, loading).with_settings(0.5, mirror=True)
    found = []
    with _accumulating_in_float32(peer):
        for case in images_to_predict((images,), own.model.description):
            ours = own.predict(own.read(case)).logits
            preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
            data, *_ = preprocessor.run_case(
                [str(path) for path in case.images],
                None,
                predictor.plans_manager,
                predictor.configuration_manager,
                predictor.dataset_json,
            )
            image = torch.from_numpy(np.asarray(data))
            theirs = predictor.predict_logits_from_preprocessed_data(image)
            found.append(float((ours - theirs).abs().max()))
    return found


class _accumulating_in_float32:
    """Let the peer add up tiles in float32: half precision alone moves its logits by 1e-3."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __enter__(self) -> None:
        import torch

        self.torch, self.gaussian = self.module.torch, self.module.compute_gaussian

        class Float32Torch:
            half = torch.float32

            def __getattr__(self, name: str) -> Any:
                return getattr(torch, name)

        self.module.torch = Float32Torch()
        self.module.compute_gaussian = functools.partial(self.gaussian, dtype=torch.float32)

    def __exit__(self, *_: object) -> None:
        self.module.torch, self.module.compute_gaussian = self.torch, self.gaussian


def _hippocampus(folder: Path, data: Path, cases: int = 8) -> None:
    """Copy some cases of the real data set."""
    source = data / "Dataset004_Hippocampus"
    chosen = sorted(path.name for path in (source / "labelsTr").glob("*.nii.gz"))[:cases]
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for name in chosen:
        image = name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(source / "imagesTr" / image, folder / "imagesTr")
        shutil.copy(source / "labelsTr" / name, folder / "labelsTr")
    content = json.loads((source / "dataset.json").read_text())
    _write_json(folder / "dataset.json", {**content, "numTraining": cases})


def _axons(folder: Path, data: Path, cases: int = 8, edge: int = 200) -> None:
    """Cut tiles out of a real microscopy image; a black hole is put into each."""
    from segkit.dataset.image_io import read_image, read_labels, write_labels

    source = data / "Dataset123_AxonMyelin"
    file = sorted((source / "labelsTr").iterdir())[0]
    labels = read_labels(file)
    image = read_image([source / "imagesTr" / f"{file.stem}_0000.png"])
    across = labels.array.shape[-1] // edge
    for case in range(cases):
        y, x = (edge * place for place in divmod(case, across))
        cut = (0, slice(None), slice(y, y + edge), slice(x, x + edge + 3 * case))
        pixels = image.array[cut].astype(np.uint8)
        pixels[:, 20:60, 30:90] = 0
        pixels[:, :25, :35] = 0
        write_labels(folder / "imagesTr" / f"c{case}_0000.png", pixels, image.geometry)
        write_labels(folder / "labelsTr" / f"c{case}.png", labels.array[cut], image.geometry)
    content = json.loads((source / "dataset.json").read_text())
    _write_json(folder / "dataset.json", {**content, "numTraining": cases})


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """Made cases: a ball with a core in noise; calling it writes the data set."""

    channels: tuple[str, ...] = ("MR",)
    labels: Mapping[str, Any] = field(
        default_factory=lambda: {"background": 0, "core": 2, "shell": 1}
    )
    shape: tuple[int, int, int] = (32, 40, 36)
    spacings: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    """Of the cases in turn, (z, y, x) in mm."""
    order: tuple[int, ...] | None = None
    """regions_class_order."""
    black: bool = False
    """Nothing is measured outside of an ellipsoid: zero in every channel, and at some spots."""
    ignored: int | None = None
    """Value painted over every third slice."""
    cases: int = 6
    ending: str = ".nii.gz"

    def __call__(self, folder: Path, data: Path) -> None:
        """Write the raw data set."""
        for case in range(self.cases):
            self._write(folder, case)
        content = {
            "channel_names": {str(i): name for i, name in enumerate(self.channels)},
            "labels": self.labels,
            "numTraining": self.cases,
            "file_ending": self.ending,
        }
        if self.order is not None:
            content["regions_class_order"] = list(self.order)
        _write_json(folder / "dataset.json", content)

    def _write(self, folder: Path, case: int) -> None:
        from segkit.dataset.image_io import write_labels
        from segkit.types import Geometry

        rng = np.random.default_rng(case)
        spacing = self.spacings[case % len(self.spacings)]
        shape = tuple(
            int(n * s / t) for n, s, t in zip(self.shape, self.spacings[0], spacing, strict=True)
        )
        shape = tuple(n + int(rng.integers(0, 5)) for n in shape)
        axes = [np.linspace(-1, 1, n) + rng.uniform(-0.2, 0.2) for n in shape]
        distance = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
        distance = distance * (1 + 0.1 * rng.standard_normal(shape))
        labels = (distance < 0.7).astype(int) + (distance < 0.4)
        geometry = Geometry(spacing_mm=spacing, origin=(-7.5, 3.0, 11.0))
        for channel in range(len(self.channels)):
            grey = 300 + 200 * labels * (1 + channel) + 40 * rng.standard_normal(shape)
            image = np.clip(grey, 1, 60000).astype(np.uint16)
            if self.black:
                image[distance > 1.1] = 0
                image[1::7, 2::9, 3::8] = 0
            name = f"c{case}_{channel:04d}{self.ending}"
            write_labels(folder / "imagesTr" / name, image, geometry)
        if self.ignored is not None:
            labels[::3] = self.ignored
        write_labels(folder / "labelsTr" / f"c{case}{self.ending}", labels, geometry)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1))


_RESENC = {"steps": 400, "planner": "nnUNetPlannerResEncM", "plans": "nnUNetResEncUNetMPlans"}
_FLAT = {"configuration": "2d", "patch_size": (32, 32)}
_REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2}

SCENARIOS: dict[str, Scenario] = {
    "plain": Scenario(what="3D, plain, real MR", make=_hippocampus),
    "resenc": Scenario(what="3D, residual encoder, real MR", make=_hippocampus, **_RESENC),
    "flat": Scenario(what="2D on volumes, real MR", make=_hippocampus, **_FLAT),
    "png": Scenario(
        what="2D, png with black holes", make=_axons, **{**_FLAT, "patch_size": (64, 64)}
    ),
    "regions": Scenario(
        what="3D, regions, mha", make=Phantom(labels=_REGIONS, order=(1, 2), ending=".mha")
    ),
    "ignore": Scenario(
        what="3D, regions, ignore label",
        make=Phantom(labels={**_REGIONS, "ignore": 3}, order=(1, 2), ignored=3),
    ),
    "anisotropic": Scenario(
        what="3D, thick slices along x, CT",
        make=Phantom(
            channels=("CT",),
            shape=(60, 64, 14),
            spacings=((0.8, 0.8, 5.0), (0.7, 0.7, 4.0), (1.0, 1.1, 6.0)),
        ),
        patch_size=(8, 32, 32),
    ),
    "masked": Scenario(
        what="3D, two channels, black around, one rescaled",
        make=Phantom(
            channels=("T1", "rescale_to_0_1"),
            spacings=((1.0, 1.0, 1.0), (1.2, 0.9, 0.9)),
            black=True,
        ),
    ),
}

if __name__ == "__main__":
    main()
