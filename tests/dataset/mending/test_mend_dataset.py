import json

import numpy as np
import pytest

from segkit.dataset.cases import find_cases
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import read_annotation
from segkit.dataset.mending import dataset as mending
from segkit.dataset.mending.dataset import mend_dataset
from segkit.dataset.validation import validate_dataset
from segkit.errors import UserError
from segkit.files import file_hash

SHAPE = (4, 5, 6)


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


def mask(value):
    array = np.zeros(SHAPE, np.int16)
    array[1, 2, :3] = value
    return array


def codes(lines):
    return sorted(line.code for line in lines)


@pytest.fixture
def rewrite(dataset, content):
    def write(**changed):
        content.update(changed)
        kept = {key: value for key, value in content.items() if value is not None}
        (dataset / "dataset.json").write_text(json.dumps(kept))
        return dataset

    return write


@pytest.fixture
def mend(dataset, tmp_path):
    """Mend the data set; checks that the original stays as it is, and what holds for any copy."""

    def run(folder=dataset, jobs=1):
        before = hashes(dataset)
        out = tmp_path / "out"
        done = mend_dataset(folder, out, jobs=jobs)
        assert hashes(dataset) == before
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
        assert out.exists() == (done.out is not None) == bool(done.mended)
        if done.out:
            assert hashes(out).keys() >= before.keys()
            assert done.report == validate_dataset(out / "dataset.json", jobs=1)
        return done

    return run


def test_labels_the_other_way_round_and_v1(rewrite, mend, tmp_path):
    rewrite(
        modality={"0": "CT"},
        channel_names=None,
        file_ending=None,
        labels={"0": "background", "1": "liver", "2": "tumour"},
    )
    done = mend()
    assert done.ok
    assert done.report.problems == ()
    assert {"SK-D007", "SK-D023"} <= set(codes(done.mended))
    written = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert written["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert written["channel_names"] == {"0": "CT"}


@pytest.mark.parametrize(
    ("count", "code"), [(None, "SK-D005"), ("many", "SK-D012"), ("3", "SK-D012"), (7, "SK-F008")]
)
def test_number_of_cases(rewrite, mend, tmp_path, count, code):
    rewrite(numTraining=count)
    done = mend()
    assert codes(done.mended) == [code]
    assert done.mended[0].message.endswith("numTraining is now 3")
    assert done.report.problems == ()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["numTraining"] == 3


def test_number_of_cases_is_open_while_files_are_missing(dataset, rewrite, mend):
    rewrite(numTraining=None)
    (dataset / "labelsTr" / "a.nii.gz").unlink()
    done = mend()
    assert done.mended == ()
    assert codes(done.left) == ["SK-D005"]
    assert "nothing was written" in str(done)
    assert "SK-F006" in str(done)
    assert not done.ok


@pytest.mark.parametrize(
    ("add", "code"),
    [
        ("labelsTr/d.nii.gz", "SK-F007"),
        ("imagesTr/d_0000.mha", "SK-F009"),
        ("masksTr/d.nii.gz", "SK-F020"),
    ],
)
def test_number_of_cases_is_open_while_files_are_in_doubt(
    dataset, rewrite, mend, itk_file, add, code
):
    rewrite(numTraining=7)
    itk_file(dataset / add, mask(1))
    done = mend()
    assert done.mended == ()
    assert codes(done.left) == ["SK-F008"]
    assert f"problems of the files ({code}) leave open" in done.left[0].message


def test_number_of_cases_is_certain_whatever_they_are_called(dataset, rewrite, mend):
    rewrite(numTraining=7)
    for name, other in (("imagesTr/a_0000", "imagesTr/aux_0000"), ("labelsTr/a", "labelsTr/aux")):
        (dataset / f"{name}.nii.gz").rename(dataset / f"{other}.nii.gz")
    done = mend()
    assert codes(done.mended) == ["SK-F008"]
    assert codes(done.report.problems) == ["SK-F016"]


def test_another_orientation_is_turned(dataset, mend, itk_file):
    axes = (-1, 0, 0, 0, 1, 0, 0, 0, 1)
    label = mask(1)
    itk_file(dataset / "labelsTr" / "a.nii.gz", label[..., ::-1], origin=(5, 0, 0), direction=axes)
    assert codes(validate_dataset(dataset, jobs=1).errors) == ["SK-G008"]
    done = mend()
    assert codes(done.mended) == ["SK-G008"]
    assert codes(done.report.errors) == []
    description = load_description(done.out)
    volume = read_annotation(find_cases(description)[0][0], description.labels)
    assert np.array_equal(volume.array[0], label)


def test_files_are_mended_by_the_mended_description(dataset, rewrite, mend, itk_file):
    """What 255 means is known only when the labels have been repaired."""
    rewrite(labels={"background": 0, "liver": "1"})
    for case in "ab":
        itk_file(dataset / "labelsTr" / f"{case}.nii.gz", mask(255))
    done = mend()
    assert codes(done.mended) == ["SK-D024", "SK-V003", "SK-V003"]
    assert [line.case for line in done.mended] == [None, "a", "b"]
    assert codes(done.report.errors) == ["SK-V003"]  # the 2 of case c


def test_training_sees_the_voxels_of_the_original(dataset, rewrite, mend, itk_file):
    rewrite(labels={"background": 0, "liver": 1})
    itk_file(dataset / "labelsTr" / "a.nii.gz", mask(255))
    itk_file(dataset / "labelsTr" / "b.nii.gz", mask(1), origin=(0.2, 0, 0, 0))
    itk_file(dataset / "labelsTr" / "c.nii.gz", mask(1.003).astype(np.float32) * 1.003)
    done = mend()
    assert codes(done.mended) == ["SK-G003", "SK-V002", "SK-V003"]
    assert done.ok
    assert done.report.problems == ()
    description = load_description(done.out)
    for case in find_cases(description)[0]:
        volume = read_annotation(case, description.labels)
        assert np.array_equal(volume.array[0], mask(1))
        image = read_image(case.images)
        assert volume.geometry == image.geometry
        original = read_image([dataset / "imagesTr" / case.images[0].name])
        assert np.array_equal(image.array, original.array)


def test_what_is_left_is_told_with_its_code(dataset, rewrite, mend, itk_file):
    rewrite(labels={"background": 0, "liver": 1, "tumour": 2.0})
    itk_file(dataset / "labelsTr" / "a.nii.gz", mask(1), origin=(3.0, 0, 0, 0))
    itk_file(dataset / "labelsTr" / "b.nii.gz", mask(255))
    done = mend()
    assert codes(done.mended) == ["SK-D024"]
    assert codes(done.left) == ["SK-G003", "SK-V003"]
    assert codes(done.report.problems) == ["SK-G003", "SK-V003"]
    text = str(done)
    assert text.index("Mended (1)") < text.index("Left (2)") < text.index("Errors (1)")
    listed = done.to_json()
    assert json.loads(json.dumps(listed)) == listed
    assert [line["code"] for line in listed["mended"]] == ["SK-D024"]
    assert listed["errors"][0]["code"] == "SK-V003"


def test_255_beside_labels_in_one_file_makes_it_doubtful_in_all(dataset, rewrite, mend, itk_file):
    rewrite(labels={"background": 0, "liver": 1})
    both = mask(255)
    both[3] = 1
    for case, array in zip("abc", (mask(255), both, mask(1)), strict=True):
        itk_file(dataset / "labelsTr" / f"{case}.nii.gz", array)
    done = mend()
    assert done.mended == ()
    assert "in another file" in done.left[0].message


def test_a_further_channel_takes_the_geometry_of_the_first(dataset, rewrite, mend, itk_file):
    rewrite(channel_names={"0": "T1", "1": "T2"})
    noise = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    for case, shift in zip("abc", (0.1, 0.0, 5.0), strict=True):
        path = dataset / "imagesTr" / f"{case}_0001.nii.gz"
        itk_file(path, noise, origin=(shift, 0, 0, 0))
    done = mend()
    assert [line.where for line in done.mended] == ["imagesTr/a_0001.nii.gz"]
    assert [line.where for line in done.left] == ["imagesTr/c_0001.nii.gz"]
    again = read_image([done.out / "imagesTr" / "a_0001.nii.gz"])
    assert np.array_equal(again.array[0], noise)


def test_masks_of_overlapping_structures(dataset, rewrite, mend, itk_file):
    rewrite(label_encoding="multilabel")
    for case in "abc":
        (dataset / "labelsTr" / f"{case}.nii.gz").unlink()
        folder = dataset / "labelsTr" / case
        itk_file(folder / "liver.nii.gz", mask(255 if case == "a" else 1))
        itk_file(folder / "tumour.nii.gz", mask(1))
    done = mend()
    assert [line.where for line in done.mended] == ["labelsTr/a/liver.nii.gz"]
    assert done.report.problems == ()


def test_a_region_of_interest_keeps_its_values(dataset, mend, itk_file):
    itk_file(dataset / "masksTr" / "a.nii.gz", mask(255), origin=(0.1, 0, 0, 0))
    done = mend()
    assert [(line.code, line.where) for line in done.mended] == [("SK-G003", "masksTr/a.nii.gz")]
    assert read_image([done.out / "masksTr" / "a.nii.gz"]).array.max() == 255


def test_good_and_hopeless_data_sets_are_not_copied(dataset, mend):
    done = mend()
    assert done.ok
    assert str(done).startswith("Nothing needs mending; nothing was written")
    (dataset / "dataset.json").write_text("{")
    done = mend()
    assert not done.ok
    assert done.to_json()["written"] is None


def test_doubled_keys(dataset, mend, tmp_path):
    text = (dataset / "dataset.json").read_text().replace("3,", "7,")
    (dataset / "dataset.json").write_text(text.replace("{", '{"file_ending": ".nii", ', 1))
    done = mend()
    assert (done.mended, codes(done.left)) == ((), ["SK-D002"])
    (dataset / "dataset.json").write_text(text.replace("{", '{"file_ending": ".nii.gz", ', 1))
    done = mend()
    assert codes(done.mended) == ["SK-D002", "SK-F008"]
    assert done.report.problems == ()


def test_worker_processes_do_the_same(dataset, rewrite, mend, itk_file, tmp_path):
    rewrite(labels={"background": 0, "liver": 1})
    for case in "abc":
        itk_file(dataset / "labelsTr" / f"{case}.nii.gz", mask(255))
    one = mend()
    files = hashes(one.out)
    one.out.rename(tmp_path / "one")
    assert mend(jobs=2) == one
    assert hashes(one.out) == files


def test_another_description_keeps_its_name(dataset, content, tmp_path):
    (dataset / "other.json").write_text(json.dumps({**content, "numTraining": 9}))
    done = mend_dataset(dataset / "other.json", tmp_path / "out", jobs=1)
    assert done.report.dataset == "out_other"
    assert json.loads((done.out / "other.json").read_text())["numTraining"] == 3
    original = (dataset / "dataset.json").read_bytes()
    assert (done.out / "dataset.json").read_bytes() == original


def test_files_from_elsewhere_are_mended_in_the_copy(dataset, content, tmp_path, itk_file):
    label = itk_file(tmp_path / "elsewhere" / "x.nii.gz", mask(255))
    before = label.read_bytes()
    cases = {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "../elsewhere/x.nii.gz"}}
    content |= {"labels": {"background": 0, "liver": 1}, "numTraining": 1, "dataset": cases}
    (dataset / "dataset.json").write_text(json.dumps(content))
    done = mend_dataset(dataset, tmp_path / "deep" / "out", jobs=1)
    assert done.ok
    assert [line.where for line in done.mended] == ["outside/0000/x.nii.gz"]
    assert label.read_bytes() == before
    description = load_description(done.out)
    assert find_cases(description)[0][0].label == done.out / "outside" / "0000" / "x.nii.gz"


def test_places_that_cannot_be(dataset, tmp_path):
    for out in (dataset, dataset / "new", tmp_path):
        with pytest.raises(UserError, match="would lie"):
            mend_dataset(dataset, out, jobs=1)
    (tmp_path / "link").symlink_to(dataset)
    with pytest.raises(UserError, match="inside"):
        mend_dataset(dataset, tmp_path / "link" / "new", jobs=1)


def test_an_interruption_leaves_nothing(rewrite, dataset, tmp_path, monkeypatch):
    rewrite(numTraining=5)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mending, "copy_rest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mend_dataset(dataset, tmp_path / "out", jobs=1)
    assert list(tmp_path.iterdir()) == [dataset]
