"""What users of the Python API may write, as a type checker sees it; checked, never run."""

from pathlib import Path

import numpy as np

import segkit


def predict(array: np.ndarray) -> None:
    predictor = segkit.Predictor.from_folder("MODEL", folds=[0, "1"], device="cuda:0")
    labels: np.ndarray = predictor.predict(array, spacing_mm=(1, 1, 1))
    both: tuple[np.ndarray, np.ndarray]
    both = predictor.predict(labels, (1.0, 1, 1), probabilities=True, tta=False, step=1)
    predictor.predict(both[1], probabilities="yes")  # type: ignore[call-overload]
    written: tuple[Path, ...] = predictor.predict_files(["a", Path("b")], "out")
    segkit.predict([str(written[0])], "out", "MODEL", no_tta=True)


def train() -> float | None:
    if not segkit.validate("4").ok:
        copy: Path | None = segkit.validate("4", fix="out").out
        raise segkit.UserError("broken", where=copy)
    patch: tuple[int, ...] = segkit.plan("4").configurations["2d"].patch_size
    stores: dict[str, Path] = segkit.preprocess("4", configurations=["2d"])
    fold: Path = segkit.train("4", "2d", fold=0, settings={"sampling.patch_size": patch})
    model: Path = segkit.run("4", planner=stores["2d"].name).model
    segkit.train(4, "2d")  # type: ignore[arg-type]
    best: Path = segkit.find_best("4", folds=[0, 1]).model
    averaged: tuple[Path, ...] = segkit.ensemble([fold, "b"], "out")
    averaged = segkit.postprocess(input=averaged[0].parent, output="done", rules=best)
    adopted = [rule.target for rule in segkit.postprocess(fit=True, output="r.json").rules]
    raw: Path = segkit.convert("cases.csv", f"raw{adopted}", labels={"background": 0})
    averaged = segkit.overlay(raw, "pictures")
    model = segkit.import_nnunet("results", segkit.preview(raw, "2d").parent)
    segkit.export_nnunet(model, 3)  # type: ignore[arg-type]
    assert segkit.crossval(raw, "2d").cases
    return segkit.evaluate(fold, model, "dataset.json").foreground_mean["dice"]
