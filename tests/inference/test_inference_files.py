"""What is written where: one file a case, never over an input."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import write_description

from segkit.dataset.cases import Case
from segkit.dataset.image_io import write_labels
from segkit.errors import UsageError, UserError
from segkit.inference.files import (
    ImagesGiven,
    Writing,
    check_output_folder,
    look_for_images,
    predict_cases,
)
from segkit.inference.record import (
    MemberSource,
    PredictionSource,
    find_records,
    read_record,
    record_path,
)
from segkit.types import Geometry

SOURCE = PredictionSource(
    members=(MemberSource(model="m", checkpoint="final", folds={"0": "abc"}, made_from="def"),),
    step=0.5,
    mirrored=True,
    precision="float32",
    engine="torch",
)


@dataclass
class Predictor:
    """Stands in for a model: writes down where it was told to write."""

    label_layout: str
    written: dict
    source: PredictionSource = SOURCE

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
        if self.label_layout == "integers":
            output.write_text("")


def predict_all(predictor, cases, output, **writing):
    predict_cases(predictor, ImagesGiven(cases=tuple(cases)), output, Writing(**writing))


def predict(layout, output, image):
    predictor = Predictor(label_layout=layout, written={})
    Path(image).parent.mkdir(parents=True, exist_ok=True)
    Path(image).write_text("")
    predict_all(predictor, [Case(id="x", images=(Path(image),), label=None)], output)
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
    cases = images(tmp_path, "a", "bad", "z")
    with pytest.raises(UserError, match="damaged"):
        predict_all(predictor, cases, tmp_path / "out")
    assert set(predictor.written) == {"a", "z"}
    assert read_record(record_path(tmp_path / "out")).cases.keys() == {"a", "z"}


def images(folder, *names):
    """Cases with an image file each, which holds its name."""
    (folder / "in").mkdir(exist_ok=True)
    for name in names:
        (folder / f"in/{name}.nii.gz").write_text(name)
    return [Case(id=i, images=(folder / f"in/{i}.nii.gz",), label=None) for i in names]


def go_on(cases, output, source=SOURCE, **writing):
    predictor = Predictor(label_layout="integers", written={}, source=source)
    predict_all(predictor, cases, output, keep_done=True, **writing)
    return set(predictor.written)


def test_going_on_predicts_what_is_missing_or_made_otherwise(tmp_path):
    cases, out = images(tmp_path, "a", "b", "c"), tmp_path / "out"
    assert go_on(cases, out) == {"a", "b", "c"}
    assert go_on(cases, out) == set()
    (out / "b.nii.gz").unlink()
    (tmp_path / "in/c.nii.gz").write_text("another image")
    assert go_on(cases, out) == {"b", "c"}
    assert go_on(cases, out, keep_probabilities=True) == {"a", "b", "c"}
    other = replace(SOURCE, mirrored=False)
    assert go_on(cases[:1], out, other) == {"a"}
    # What the other model did not replace is no longer known to be the first one's.
    assert go_on(cases, out) == {"a", "b", "c"}


def test_a_model_elsewhere_is_the_same_model():
    member = SOURCE.members[0]
    moved = replace(SOURCE, members=(replace(member, model="copy"),))
    assert moved.hash() == SOURCE.hash()
    for change in ({"folds": {"0": "xyz"}}, {"checkpoint": "best"}, {"share": 2.0}):
        other = replace(SOURCE, members=(replace(member, **change),))
        assert other.hash() != SOURCE.hash()


def test_parts_keep_records_of_their_own(tmp_path):
    cases, out = images(tmp_path, "a", "b", "c"), tmp_path / "out"
    assert go_on(cases, out, part=(0, 2)) == {"a", "c"}
    assert go_on(cases, out, part=(1, 2)) == {"b"}
    assert len(find_records(out)) == 2
    assert go_on(cases, out) == set()
    assert find_records(out) == [record_path(out)]
    assert go_on(cases[:1], out, part=(1, 2)) == set()


def test_a_damaged_record_counts_for_nothing(tmp_path, caplog):
    cases, out = images(tmp_path, "a"), tmp_path / "out"
    go_on(cases, out)
    record_path(out).write_text("{")
    caplog.set_level("INFO", logger="segkit")
    assert go_on(cases, out) == {"a"}
    assert "not used" in caplog.text


def test_cases_without_all_their_files_are_named_and_the_others_done(tmp_path):
    (tmp_path / "in").mkdir()
    names = ("a_0000", "a_0001", "b_0000", "c_0000", "c_0001", "c_0002")
    for name in names:
        (tmp_path / f"in/{name}.nii.gz").write_text("")
    description = write_description(tmp_path, channel_names={"0": "CT", "1": "PET"})
    grid = Geometry(spacing_mm=(1.0, 1.0, 1.0))
    write_labels(tmp_path / "in/b_0000.nii.gz", np.ones((1, 2, 3), np.uint8), grid)
    given = look_for_images([tmp_path / "in"], description)
    assert [case.id for case in given.cases] == ["a", "b", "c"]
    assert "channel 1 (PET) is missing" in given.faults["b"].what
    assert "no channel 2" in given.faults["c"].what
    predictor = Predictor(label_layout="integers", written={})
    with pytest.raises(UserError, match=r"2 of 3 cases failed(?s:.*)\[b\](?s:.*)\[c\]"):
        predict_cases(predictor, given, tmp_path / "out")
    assert set(predictor.written) == {"a"}
    for path in (tmp_path / "in").glob("a_*"):
        path.unlink()
    with pytest.raises(UserError, match="2 problems"):
        look_for_images([tmp_path / "in"], description)


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


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII", "b.png"])
def test_a_file_is_no_output_folder(tmp_path, name):
    with pytest.raises(UsageError, match="folder, not a file"):
        check_output_folder(tmp_path / name)
    check_output_folder(tmp_path / "a.folder")


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        check_output_folder(tmp_path / "file" / "out")


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_parts_that_do_not_exist(part):
    with pytest.raises(UsageError, match="there is no part"):
        Writing(part=part)
