#!/usr/bin/env python3
"""Prediction with mirroring: the same weights in both programs, on the same cases.

scripts/bench_predict.py --peer FOLDER [--model MODEL] [--work KEPT] [--variants default fp32]

Without --model (a model folder of segkit on the default plan of the data set) one is trained for
--training. Before anything is timed, both networks have to give the same logits.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking import (  # fmt: skip
    Row,
    alternate_commands,
    measured,
    parse,
    program,
    run,
    run_side,
    save,
)
from floors import arithmetic_rate

NAME = "Dataset004_Hippocampus"
TRAINER = "nnUNetTrainer"
VARIANTS: dict[str, tuple[tuple[str, ...], float | None]] = {
    "default": ((), 4),
    "fp32": (("--precision", "fp32"), None),
    "torch": (("--engine", "torch"), None),
    "openvino-int8": (("--engine", "openvino-int8"), 5),
}
"""Options of ``segkit predict``, and how many times as fast as the peer it is asked to be."""
DEFAULT = ("default", "torch", "openvino-int8")
MOST_APART = 1e-3
"""Logits of both networks in float32, and Dice of both programs, differ by no more."""


def main() -> None:
    """Make the peer's twin of a model, then predict with both in turn."""
    options = _options()
    if options.side:
        {"twin": _twin, "floor": _floor}[options.side](options.model, options.work, options.data)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.work = (options.work or Path(scratch)).resolve()
        options.work.mkdir(parents=True, exist_ok=True)
        save(options, "predict", *_measure(options))


def _options() -> argparse.Namespace:
    parser = parse(__doc__, repeats=3)
    parser.add_argument("--model", type=Path, help="model folder of segkit on this data set")
    parser.add_argument("--work", type=Path, help="keep what is made here, for the next time")
    parser.add_argument("--cases", type=int, default=52)
    parser.add_argument("--training", default="3m", help="time budget where there is no --model")
    parser.add_argument("--variants", nargs="+", default=DEFAULT, choices=VARIANTS)
    parser.add_argument("--without-peer", action="store_true", help="time segkit alone")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> tuple[list[Row], str]:
    """Return the rows, and a note on how far the two networks are apart."""
    model = _copied((options.model or _trained(options)).resolve(), options.work / "model")
    images, labels = _chosen_cases(options)
    env = _peer_plan(options)
    made = ("--model", model, "--work", options.work)
    apart = run_side(options, "twin", *made, env=env).result["apart"]
    if apart > MOST_APART:
        sys.exit(f"the two networks differ: logits are up to {apart} apart")
    floor = run_side(options, "floor", *made).result
    if "openvino-int8" in options.variants:
        images_of_training = options.data / NAME / "imagesTr"
        run([program(options, "segkit"), "quantize", "-q", "-m", model, "-i", images_of_training])
    outputs = {name: options.work / name for name in (*options.variants, "peer")}
    sides = {
        name: partial(run, _segkit_command(options, model, images, outputs[name], name))
        for name in options.variants
    }
    if not options.without_peer:
        sides["peer"] = partial(run, _peer_command(options, images, outputs["peer"]), env=env)
    found = alternate_commands(sides, options.repeats)
    dice = {name: _dice(options, outputs[name], labels) for name in found}
    rows = [
        Row(
            what=f"{options.cases} cases with TTA: {name}",
            segkit=found[name],
            peer=found.get("peer", ()),
            wanted=VARIANTS[name][1],
            wanted_memory=3 if VARIANTS[name][1] else None,
            equal=_equal(options, name, outputs, dice),
            floor=floor["text"],
        )
        for name in options.variants
    ]
    return rows, f"the same weights: logits of one patch in float32 differ by {apart:.1e} at most"


def _trained(options: argparse.Namespace) -> Path:
    """Plan, preprocess and train with segkit, unless the work folder holds a model already."""
    segkit, work = program(options, "segkit"), options.work / "segkit"
    model = work / NAME / "models" / "default_3d_fullres"
    if not (model / "fold_0" / "final.pt").exists():
        where = (options.data / NAME, "-w", work, "--device", "cpu")
        run([segkit, "plan_and_preprocess", *where, "-c", "3d_fullres"])
        train = (segkit, "train", *where[:1], "3d_fullres", *where[1:])
        run([*train, "--fold", "0", "--time-budget", options.training])
    return Path(model)


def _copied(model: Path, place: Path) -> Path:
    """Copy a model, for what is measured on it belongs to nobody's."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(model, place))


def _chosen_cases(options: argparse.Namespace) -> tuple[Path, Path]:
    """Copy images and labels of the cases fold 0 validates on, and of others up to the number."""
    from segkit.dataset.splits import make_splits

    source = options.data / NAME
    ids = sorted(path.name.split(".")[0] for path in (source / "labelsTr").glob("*.nii.gz"))
    split = make_splits(ids)[0]
    folders = (options.work / "images", options.work / "labels")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for case in [*split.val, *split.train][: options.cases]:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folders[0])
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folders[1])
    return folders


def _segkit_command(
    options: argparse.Namespace, model: Path, images: Path, output: Path, variant: str
) -> list[str | Path]:
    command = [program(options, "segkit"), "predict", "-q", "--device", "cpu", "-m", model]
    return [*command, "-i", images, "-o", output, *VARIANTS[variant][0]]


def _peer_command(options: argparse.Namespace, images: Path, output: Path) -> list[str | Path]:
    command = [program(options, "nnUNetv2_predict"), "-i", images, "-o", output, "-d", "4"]
    return [*command, "-c", "3d_fullres", "-f", "0", "-npp", "1", "-nps", "1", "-device", "cpu"]


def _peer_plan(options: argparse.Namespace) -> dict[str, str]:
    """Let the peer plan, unless the work folder holds its plan; returns its folders."""
    folders = {kind: options.work / kind for kind in ("preprocessed", "results")}
    env = {f"nnUNet_{kind}": str(folder) for kind, folder in folders.items()}
    env["nnUNet_raw"] = str(options.data.resolve())
    if not (folders["preprocessed"] / NAME / "nnUNetPlans.json").exists():
        command = (program(options, "nnUNetv2_plan_and_preprocess"), "-d", "4", "--no_pp")
        run([*command, "-npfp", "2"], env=env)
    return env


def _dice(options: argparse.Namespace, predictions: Path, references: Path) -> float:
    """Return the mean foreground Dice of two folders."""
    with tempfile.TemporaryDirectory() as report:
        description = options.data / NAME / "dataset.json"
        command = [program(options, "segkit"), "evaluate", "-q", "-p", predictions]
        run([*command, "-r", references, "-d", description, "-o", report])
        summary = json.loads((Path(report) / "summary.json").read_text())
    return float(summary["foreground_mean"]["dice"])


def _equal(
    options: argparse.Namespace,
    name: str,
    outputs: Mapping[str, Path],
    dice: Mapping[str, float],
) -> str:
    if "peer" not in dice:
        return f"Dice {dice[name]:.4f}"
    if abs(dice[name] - dice["peer"]) > MOST_APART:
        sys.exit(f"{name}: Dice {dice[name]:.4f}, the peer's {dice['peer']:.4f}")
    between = _dice(options, outputs[name], outputs["peer"])
    return f"Dice {dice[name]:.4f} and {dice['peer']:.4f}, with each other {between:.4f}"


def _twin(model: Path, work: Path, data: Path) -> None:
    """Write a model as the peer's results folder; report how far logits of one patch differ."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from segkit.inference.model import load_model, load_networks

    read = load_model(model)
    [network] = load_networks(read, ["0"], checkpoint="final", device=torch.device("cpu"))
    results = work / "results" / NAME / f"{TRAINER}__nnUNetPlans__3d_fullres"
    (results / "fold_0").mkdir(parents=True, exist_ok=True)
    preprocessed = work / "preprocessed" / NAME
    shutil.copy(preprocessed / "nnUNetPlans.json", results / "plans.json")
    shutil.copy(data / NAME / "dataset.json", results / "dataset.json")
    checkpoint = {
        "trainer_name": TRAINER,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": read.settings.mirror_axes,
        "network_weights": _peer_weights(results, network.state_dict()),
    }
    torch.save(checkpoint, results / "fold_0" / "checkpoint_final.pth")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(results), (0,))
    torch.manual_seed(0)
    patch = torch.randn(1, len(read.plan.channel_names), *read.settings.patch_size)
    with measured() as result, torch.inference_mode():
        result["apart"] = float((network(patch) - predictor.network.eval()(patch)).abs().max())


def _peer_weights(results: Path, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return segkit's weights under every name the peer's network has for them."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(json.loads((results / "plans.json").read_text()))
    plan = plans.get_configuration("3d_fullres")
    labels = plans.get_label_manager(json.loads((results / "dataset.json").read_text()))
    with torch.device("meta"):
        network = get_network_from_plans(
            plan.network_arch_class_name,
            plan.network_arch_init_kwargs,
            plan.network_arch_init_kwargs_req_import,
            len(plan.normalization_schemes),
            labels.num_segmentation_heads,
            allow_init=False,
        )
    return {name: weights[_own_name(name)] for name in network.state_dict()}


def _own_name(name: str) -> str:
    """Translate the peer's name of a weight; it has up to four for each."""
    name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
    name = name.replace("all_modules.0.", "conv.").replace("all_modules.1.", "norm.")
    name = re.sub(r"^encoder\.stages\.(\d+)\.0\.", r"encoder.stages.\1.", name)
    return name.replace("transpconvs", "upsamplings").replace("seg_layers", "heads")


def _floor(model: Path, work: Path, data: Path) -> None:
    """Report the operations of all forward passes, and how long the machine takes at best."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkit.inference.model import load_model, load_networks
    from segkit.networks.unet import fuse_upsamplings

    read = load_model(model)
    [network] = load_networks(read, ["0"], checkpoint="final", device=torch.device("cpu"))
    fuse_upsamplings(network)
    patch = torch.zeros(1, len(read.plan.channel_names), *read.settings.patch_size)
    with measured() as result, torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(patch)
        passes = _passes(read, sorted((work / "images").iterdir()))
        work_done = counter.get_total_flops() * passes
        found = {kind: work_done / arithmetic_rate(kind) for kind in ("float32", "bfloat16")}
        seconds = " and ".join(f"{s:.3g} s in {kind}" for kind, s in found.items())
        result["text"] = (
            f"{passes} forward passes of {counter.get_total_flops() / 1e9:.3g} GFLOP (fused); at "
            f"the machine's roof they take {seconds}"
        )


def _passes(model: Any, images: Sequence[Path]) -> int:
    """Count the tiles and flips of all images."""
    from segkit.dataset.cases import Case
    from segkit.dataset.image_io import read_image
    from segkit.inference.tiling import make_tiles
    from segkit.preprocessing.pipeline import preprocess_case

    patch, tiles = model.settings.patch_size, 0
    for path in images:
        case = Case(id=path.name, images=(path,), label=None)
        volume = read_image(case.images, model.description.reader)
        prepared = preprocess_case(volume, None, model.plan, "3d_fullres", case=case)
        shape = tuple(map(max, prepared.image.shape[1:], patch))
        tiles += len(make_tiles(shape, patch, 0.5))
    return int(tiles * 2 ** len(model.settings.mirror_axes))


if __name__ == "__main__":
    main()
