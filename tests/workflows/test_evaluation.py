import json

import numpy as np
import pytest

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.evaluation.summary import load_summary
from segkit.evaluation.table import render_table
from segkit.planning.plan import Plan, save_plan
from segkit.types import Geometry
from segkit.workflows.evaluation import evaluate, evaluate_cases

NAMES = ("organ", "vessel", "lesion")


def write_dataset_json(folder):
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(NAMES)}},
        "label_encoding": "multilabel",
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def save(path, values):
    path.parent.mkdir(exist_ok=True)
    rows = np.array(values, dtype=np.uint8).reshape(1, 1, -1)
    write_labels(path, rows, Geometry(spacing_mm=(1.0, 1.0, 1.0)))
    return path


def test_training_cases_are_evaluated_where_they_are_annotated(tmp_path):
    write_dataset_json(tmp_path)
    for name, values in zip(NAMES, ([1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]), strict=True):
        save(tmp_path / "x" / f"{name}.nii.gz", values)
    case = Case(
        id="x",
        images=(),
        label=save(tmp_path / "label.nii.gz", [1, 0, 2, 1]),
        mask=save(tmp_path / "mask.nii.gz", [1, 0, 1, 0]),
        unannotated=("lesion",),
    )
    cases = [(case, tmp_path)]
    summary = evaluate_cases(load_description(tmp_path), cases, tmp_path / "out", jobs=1)
    assert "not annotated in 1 of 1" in render_table(summary)
    assert summary == load_summary(tmp_path / "out/summary.json")
    assert {name: t["dice"].mean for name, t in summary.labels.items()} == {
        "organ": 1,
        "vessel": 1,
        "lesion": None,
    }
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize("given", ["dataset.json", "."])
def test_structures_a_model_leaves_out_are_not_evaluated(tmp_path, caplog, given):
    write_dataset_json(tmp_path)
    save(tmp_path / "pred/x.nii.gz", [1, 0, 2, 0])
    save(tmp_path / "ref/x.nii.gz", [1, 4, 2, 4])
    options = opt.Evaluate(
        predictions=tmp_path / "pred",
        references=tmp_path / "ref",
        description=tmp_path / given,
        jobs=1,
    )
    caplog.set_level("INFO", logger="segkit")

    def dice():
        evaluate(options)
        labels = load_summary(tmp_path / "pred/summary.json").labels
        return {name: target["dice"].mean for name, target in labels.items()}

    assert dice() == {"organ": 1, "vessel": 1, "lesion": 0}
    assert "leaves them out" not in caplog.text
    plan = Plan(
        planner="default",
        dataset="Dataset001_Toy",
        channel_names=(),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(),
        configurations={},
        left_out=("lesion",),
    )
    save_plan(tmp_path / "plan.json", plan, made_from="x")
    assert dice() == {"organ": 1, "vessel": 1}
    assert f"not evaluated, as {tmp_path / 'plan.json'} leaves them out: lesion" in caplog.text
