import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.errors import UserError
from segkit.evaluation.summary import load_summary
from segkit.planning.plan import Plan, save_plan
from segkit.types import Geometry
from segkit.workflows.evaluation import evaluate, evaluate_cases
from segkit.workflows.prediction import predict_cases


@dataclass
class Predictor:
    """Stands in for a model: writes down where it was told to write."""

    label_layout: str
    written: dict

    @property
    def model(self):
        return SimpleNamespace(
            description=SimpleNamespace(label_ending=".nii.gz"),
            settings=SimpleNamespace(label_layout=self.label_layout),
        )

    def read(self, case):
        if case.id == "bad":
            raise UserError("damaged")
        return case.id

    def needs_all_memory(self, prepared):
        return False

    def predict(self, prepared):
        return prepared

    def write(self, prepared, output, *, keep_probabilities):
        self.written[prepared] = output


def predict(layout, output, image):
    predictor = Predictor(label_layout=layout, written={})
    case = Case(id="x", images=(Path(image),), label=None)
    predict_cases(predictor, [case], output)
    return predictor.written["x"]


@pytest.mark.parametrize(
    ("layout", "name"), [("integers", "x.nii.gz"), ("masks", "x.nii.gz"), ("folder", "x")]
)
def test_predictions_lie_where_the_layout_says(tmp_path, layout, name):
    assert (
        predict(layout, tmp_path / "out", tmp_path / "in/x_0000.nii.gz") == tmp_path / "out" / name
    )
    assert (tmp_path / "out").is_dir()


def test_a_case_that_fails_is_named_after_the_others_are_done(tmp_path):
    predictor = Predictor(label_layout="integers", written={})
    names = ("a", "bad", "z")
    cases = [Case(id=i, images=(tmp_path / f"in/{i}.nii.gz",), label=None) for i in names]
    with pytest.raises(UserError, match="damaged"):
        predict_cases(predictor, cases, tmp_path / "out")
    assert set(predictor.written) == {"a", "z"}


@pytest.mark.parametrize("layout", ["integers", "folder"])
def test_beside_the_images_is_refused(tmp_path, layout):
    with pytest.raises(UserError, match="holds the input images"):
        predict(layout, tmp_path, tmp_path / "x_0000.nii.gz")


def test_over_the_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="overwrite an input"):
        predict("integers", tmp_path, tmp_path / "x.nii.gz")


def test_into_the_folder_of_the_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="overwrite an input"):
        predict("folder", tmp_path, tmp_path / "x/x_0000.nii.gz")


@pytest.mark.parametrize("layout", ["integers", "folder"])
def test_a_file_in_place_of_a_folder_is_refused(tmp_path, layout):
    out = tmp_path / "out"
    out.mkdir()
    if layout == "folder":
        (out / "x").write_text("")
    else:
        (out / "x.nii.gz").mkdir()
    with pytest.raises(UserError, match="is to be written"):
        predict(layout, out, tmp_path / "in/x_0000.nii.gz")


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
    table = evaluate_cases(load_description(tmp_path), [(case, tmp_path)], tmp_path / "out", jobs=1)
    assert "not annotated in 1 of 1" in table
    summary = load_summary(tmp_path / "out/summary.json")
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
        channel_names=("CT",),
        transpose_forward=(0, 1, 2),
        orientation=None,
        intensities=(),
        configurations={},
        left_out=("lesion",),
    )
    save_plan(tmp_path / "plan.json", plan, made_from="x")
    assert dice() == {"organ": 1, "vessel": 1}
    assert f"not evaluated, as {tmp_path / 'plan.json'} leaves them out: lesion" in caplog.text
