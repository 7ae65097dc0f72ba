import csv
import json
import logging

import numpy as np
import pytest
import SimpleITK as sitk

from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.errors import UserError
from segkit.evaluation.case import CasePair
from segkit.evaluation.lesions import LESION_COUNTS
from segkit.evaluation.scoring import DEFAULT_METRICS, METRICS, check_scoring
from segkit.evaluation.summary import (
    cases_csv,
    evaluate_folders,
    evaluate_pairs,
    load_summary,
    save_summary,
)
from segkit.types import Geometry

GEOMETRY = Geometry(spacing_mm=(3.0, 1.0, 2.0), origin=(4.0, -5.0, 6.0))
PLAIN = {"background": 0, "kidney": 4, "tumour": 9}
REGIONS = {"background": 0, "whole": [4, 9], "tumour": 9}


@pytest.fixture
def dataset(tmp_path):
    """Return a function that writes dataset.json and two folders of label maps."""

    def write(cases, labels=PLAIN, **keys):
        content = {
            "channel_names": {"0": "CT"},
            "labels": labels,
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            **keys,
        }
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        for folder in ("pred", "ref"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name, (pred, ref) in cases.items():
            for folder, rows in (("pred", pred), ("ref", ref)):
                if rows is not None:
                    save(tmp_path / folder / f"{name}.nii.gz", rows)
        return tmp_path / "pred", tmp_path / "ref", load_description(tmp_path)

    return write


def save(path, rows, geometry=GEOMETRY):
    write_labels(path, np.array(rows).reshape(1, len(rows), -1), geometry)


@pytest.fixture
def messages(caplog):
    """Return a function that gives the messages of a level, however logging was set up."""
    caplog.set_level(logging.INFO, logger="segkit")
    return lambda level: [r.getMessage() for r in caplog.records if r.levelno == level]


def evaluate(pred, ref, description, metrics=None, **choices):
    scoring = check_scoring(metrics, **choices)
    return evaluate_folders(pred, ref, description, scoring=scoring, jobs=1)


TWO = {
    "case_1": ([[4, 4, 0, 9]], [[4, 0, 0, 9]]),
    "case_2": ([[4, 4, 0, 0]], [[4, 4, 0, 0]]),
}


def test_two_cases_by_hand(dataset):
    summary = evaluate(*dataset(TWO))
    assert summary.metrics == DEFAULT_METRICS
    kidney, tumour = summary.labels["kidney"], summary.labels["tumour"]
    assert kidney["dice"].mean == pytest.approx((2 / 3 + 1) / 2)
    assert kidney["volume_pred_ml"].mean == pytest.approx(0.012)
    assert kidney["volume_ref_ml"].mean == pytest.approx(0.009)
    assert (tumour["dice"].mean, tumour["dice"].n, tumour["dice"].undefined) == (1, 1, 1)
    assert summary.regions == {}
    assert summary.foreground_mean["dice"] == pytest.approx((5 / 6 + 1) / 2)
    assert [case.case for case in summary.cases] == ["case_1", "case_2"]
    assert summary.cases[1].labels["tumour"]["dice"] is None
    assert summary.dataset.startswith("test_two_cases")


def test_worker_processes_give_the_same(dataset):
    folders = dataset(TWO)
    assert evaluate_folders(*folders, jobs=2) == evaluate(*folders)


def test_with_regions_both_blocks_are_filled_and_the_mean_is_over_regions(dataset):
    cases = {"x": ([[9, 9, 0, 0]], [[4, 9, 0, 0]])}
    summary = evaluate(*dataset(cases, REGIONS, regions_class_order=[4, 9]))
    assert set(summary.regions) == {"whole", "tumour"}
    assert len(summary.labels) == 2
    assert summary.regions["whole"]["dice"].mean == 1
    assert summary.labels["tumour"]["dice"].mean == pytest.approx(2 / 3)
    assert summary.foreground_mean["dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert summary.targets is summary.regions


def test_labels_below_their_region_are_explained(dataset, tmp_path):
    cases = {"x": ([[9, 9, 0, 0]], [[4, 9, 0, 0]])}
    summary = evaluate(*dataset(cases, REGIONS, regions_class_order=[4, 9]))
    rim, tumour = summary.explanations
    assert (rim.label, rim.region, tumour.label) == ("label_4", "whole", "tumour")
    assert (rim.dice_label, rim.dice_region) == (0, 1)
    assert (rim.volume_label_ml, rim.volume_region_ml) == pytest.approx((0.006, 0.012))
    assert (rim.wrong_voxels, rim.border, rim.inherited) == (1, 1, 0)
    save_summary(summary, tmp_path)
    assert load_summary(tmp_path / "summary.json") == summary


def test_lesions_are_added_up_over_the_cases(dataset, tmp_path):
    cases = {"x": ([[4, 0, 4, 0]], [[4, 0, 0, 0]]), "y": ([[0, 0, 0, 0]], [[4, 0, 4, 0]])}
    counts = ["lesion_tp", "lesion_fp", "lesion_fn"]
    summary = evaluate(*dataset(cases), metrics=counts)
    totals = summary.lesion_totals["labels"]["kidney"]
    assert [totals[count] for count in counts] == [1, 1, 2]
    assert totals["lesion_f1"] == pytest.approx(2 / 5)
    assert summary.lesion_totals["labels"]["tumour"]["lesion_f1"] is None
    assert summary.lesion_totals["regions"] == {}
    assert evaluate(*dataset(cases), metrics=["lesion_f1"]).lesion_totals == {}
    save_summary(summary, tmp_path)
    assert load_summary(tmp_path / "summary.json") == summary


def test_summaries_of_before_are_read(dataset, tmp_path):
    summary = evaluate(*dataset(TWO))
    save_summary(summary, tmp_path)
    content = json.loads((tmp_path / "summary.json").read_text())
    for key in ("absent_score", "explanations", "lesion_totals"):
        del content[key]
    for case in content["cases"]:
        del case["unannotated"], case["annotated_share"]
    (tmp_path / "summary.json").write_text(json.dumps(content))
    assert load_summary(tmp_path / "summary.json") == summary


def test_ignore_is_masked_out(dataset):
    cases = {"x": ([[4, 4, 9, 9]], [[4, 255, 255, 9]])}
    labels = {**PLAIN, "ignore": 255}
    summary = evaluate(*dataset(cases, labels))
    assert summary.labels["kidney"]["dice"].mean == 1
    assert summary.labels["tumour"]["volume_pred_ml"].mean == pytest.approx(0.006)
    assert summary.cases[0].annotated_share == 0.5


def test_the_share_inside_the_mask_is_told(dataset, tmp_path):
    pred, ref, description = dataset(TWO)
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks/case_2.nii.gz", [[1, 1, 1, 0]])
    summary = evaluate_folders(pred, ref, description, masks_dir=tmp_path / "masks", jobs=1)
    assert [case.annotated_share for case in summary.cases] == [1, 0.75]
    save_summary(summary, tmp_path)
    assert (
        json.loads((tmp_path / "summary.json").read_text())["cases"][1]["annotated_share"] == 0.75
    )


def test_minus_one_is_background_in_a_prediction_and_ignored_in_a_reference(dataset):
    pred, ref, description = dataset({"x": ([[4, 4, 0, 0]], [[4, 4, 4, 0]])})
    for folder, values in ((pred, [4, -1, 4, 0]), (ref, [4, 4, -1, 0])):
        image = sitk.GetImageFromArray(np.array(values, dtype=np.int16).reshape(1, 1, 4))
        sitk.WriteImage(image, str(folder / "x.nii.gz"))
    scores = evaluate(pred, ref, description).cases[0].labels["kidney"]
    assert (scores["dice"], scores["precision"], scores["recall"]) == (2 / 3, 1, 0.5)


def test_nothing_anywhere_gives_null_not_a_crash(dataset):
    cases = {name: ([[0, 0]], [[0, 0]]) for name in "ab"}
    summary = evaluate(*dataset(cases), metrics=METRICS)
    assert summary.foreground_mean == {
        **dict.fromkeys(METRICS),
        **dict.fromkeys(("volume_ref_ml", "volume_pred_ml"), 0.0),
        **dict.fromkeys(LESION_COUNTS, 0.0),
    }
    assert summary.labels["kidney"]["hd95_mm"].undefined == 2


def test_files_are_strict_and_come_back_equal(dataset, tmp_path):
    summary = evaluate(*dataset(TWO), metrics=METRICS)
    save_summary(summary, tmp_path / "out")

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "out" / "summary.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert {"format_version", "segkit_version", "made_from", "not_predicted"} <= set(content)
    assert content["labels"]["tumour"]["dice"] == {
        "mean": 1.0,
        "std": 0.0,
        "median": 1.0,
        "ci95": [1.0, 1.0],
        "n": 1,
        "undefined": 1,
    }
    assert content["regions"] == {}
    assert content["cases"][1]["case"] == "case_2"
    assert content["cases"][1]["labels"]["tumour"]["hd95_mm"] is None
    assert content["cases"][1]["regions"] == {}
    assert content["cases"][1]["unannotated"] == content["explanations"] == []
    assert content["absent_score"] is None
    assert load_summary(tmp_path / "out" / "summary.json") == summary


def test_csv_has_empty_cells_where_undefined(dataset, tmp_path):
    summary = evaluate(*dataset(TWO), metrics=["precision", "dice"])
    rows = list(csv.reader(cases_csv(summary).splitlines()))
    assert rows[0] == ["case", "kind", "name", "dice", "precision"]
    assert rows[4] == ["case_2", "label", "tumour", "", ""]
    assert float(rows[1][3]) == 2 / 3
    save_summary(summary, tmp_path)
    assert (tmp_path / "cases.csv").read_text() == cases_csv(summary)


def test_made_from_follows_the_files(dataset):
    folders = dataset(TWO)
    before = evaluate(*folders).made_from
    assert evaluate(*folders).made_from == before
    save(folders[0] / "case_1.nii.gz", [[0, 0, 0, 0]])
    assert evaluate(*folders).made_from != before


def test_references_without_prediction_are_told(dataset, messages):
    cases = {**TWO, "late": (None, [[0, 0, 0, 0]])}
    summary = evaluate(*dataset(cases))
    assert summary.not_predicted == ("late",)
    assert messages(logging.INFO)[0].startswith("note: 1 of 3 references have no prediction")


def test_predictions_without_reference_are_refused_by_name(dataset):
    cases = {**TWO, "x": ([[0]], None), "y": ([[0]], None)}
    with pytest.raises(UserError, match="2 of 4 predictions have no reference: x, y"):
        evaluate(*dataset(cases))


def test_no_prediction_is_refused(dataset):
    folders = dataset({"x": (None, [[0]])})
    (folders[0] / "plan.json").write_text("{}")
    (folders[0] / ".hidden.nii.gz").write_text("")
    with pytest.raises(UserError, match=r"no prediction ends in \.nii\.gz"):
        evaluate(*folders)


def test_missing_folder_is_refused(dataset, tmp_path):
    _, ref, description = dataset(TWO)
    with pytest.raises(UserError, match="no such folder"):
        evaluate(tmp_path / "nowhere", ref, description)


def test_shape_mismatch_names_case_and_both_shapes(dataset):
    cases = {**TWO, "odd": ([[0, 0, 0]], [[0, 0], [0, 0]])}
    with pytest.raises(UserError) as raised:
        evaluate(*dataset(cases))
    assert all(text in str(raised.value) for text in ("odd", "(1, 1, 3)", "(1, 2, 2)"))


def test_undeclared_values_name_the_file(dataset):
    with pytest.raises(UserError, match=r"7 \(1 voxels\)") as raised:
        evaluate(*dataset({"x": ([[0, 7]], [[0, 4]])}))
    assert "pred" in str(raised.value.where)


def test_geometry_mismatch_is_a_warning(dataset, messages):
    pred, ref, description = dataset(TWO)
    moved = Geometry(spacing_mm=(3.0, 1.0, 2.0), origin=(1.0, -5.0, 6.0))
    save(pred / "case_1.nii.gz", [[4, 4, 0, 9]], moved)
    summary = evaluate(pred, ref, description)
    expected = "case_1: origin differs: reference (4, -5, 6), prediction (1, -5, 6)"
    assert messages(logging.WARNING) == [expected]
    assert len(summary.cases) == 2


def test_pairs_from_several_folders(dataset):
    pred, ref, description = dataset(TWO)
    (pred / "case_1.nii.gz").rename(pred.parent / "elsewhere.nii.gz")
    pairs = [
        CasePair(case="a", pred=pred.parent / "elsewhere.nii.gz", ref=ref / "case_1.nii.gz"),
        CasePair(case="b", pred=pred / "case_2.nii.gz", ref=ref / "case_2.nii.gz"),
    ]
    summary = evaluate_pairs(pairs, description, jobs=1)
    assert summary.labels["kidney"]["dice"].mean == pytest.approx((2 / 3 + 1) / 2)
    with pytest.raises(UserError, match="no case"):
        evaluate_pairs([], description)


def test_planes(dataset, tmp_path):
    description = dataset({}, {"background": 0, "cell": 1}, file_ending=".png")[2]
    plane = Geometry(spacing_mm=(999.0, 1.0, 1.0), stored_ndim=2)
    for folder, columns in (("pred", 3), ("ref", 4)):
        labels = np.zeros((1, 6, 6), dtype=np.uint8)
        labels[0, 1:5, 1 : 1 + columns] = 1
        write_labels(tmp_path / folder / "x.png", labels, plane)
    summary = evaluate(
        tmp_path / "pred", tmp_path / "ref", description, metrics=METRICS, nsd_tolerance_mm=0
    )
    scores = summary.cases[0].labels["cell"]
    assert scores["dice"] == 24 / 28
    assert scores["volume_ref_ml"] == pytest.approx(0.016)
    # 12 outline voxels in the reference: the last column is 1 mm off; 10 in the prediction.
    assert 0 < scores["nsd"] < 1
    assert scores["assd_mm"] < 1
