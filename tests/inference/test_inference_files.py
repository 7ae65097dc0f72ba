"""What is written where: one file a case, never over an input."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from segkit.dataset.cases import Case
from segkit.errors import UsageError, UserError
from segkit.inference.files import check_output_folder, predict_cases


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


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII", "b.png"])
def test_a_file_is_no_output_folder(tmp_path, name):
    with pytest.raises(UsageError, match="folder, not a file"):
        check_output_folder(tmp_path / name)
    check_output_folder(tmp_path / "a.folder")
