"""Arrays and files go the same way, whoever asks: the command line or Python."""

import itertools
import platform
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_configuration, tiny_plan, write_model

from segkit.cli.main import main
from segkit.dataset.image_io import read_masks, write_labels
from segkit.dataset.image_io.sitk_io import write as write_image
from segkit.dataset.orientation import direction_of, reorient_array
from segkit.errors import UserError
from segkit.inference import engines
from segkit.inference.engines import ENGINES
from segkit.inference.engines.forward import EngineFailed
from segkit.types import Geometry
from segkit.workflows.predictor import Predictor

SHAPE, SPACING = (9, 14, 11), (2.0, 1.0, 1.5)
REGIONS = {
    "labels": {"background": 0, "whole": [7, 3], "core": [3]},
    "regions_class_order": [7, 3],
}
STRUCTURES = {"labels": {"background": 0, "a": 1, "b": 2, "c": 4}, "label_encoding": "multilabel"}


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums of floats depend on how threads share them; one gives the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(10, 3, shape).astype(np.float32)


@pytest.fixture
def plan():
    return tiny_plan(tiny_configuration(channels=2), ("T1", "T2"), orientation="LPS")


def by_command_line(folder, model, channels, *options, geometry=None):
    """Predict channels written as files; returns the folder that comes out."""
    geometry = geometry or Geometry(spacing_mm=SPACING)
    for i, channel in enumerate(channels):
        write_image(folder / f"in/x_{i:04d}.nii.gz", channel, geometry)
    return predict(folder, model, *options)


def predict(folder, model, *options):
    arguments = ["-i", folder / "in", "-o", folder / "out", "-m", model, *options]
    assert main(["predict", "--device", "cpu", *map(str, arguments)]) == 0
    return folder / "out"


@pytest.mark.parametrize("content", [{}, REGIONS, STRUCTURES], ids=["classes", "regions", "bits"])
def test_arrays_are_predicted_as_files_are(tmp_path, plan, content):
    model = write_model(tmp_path / "model", plan, folds=(0, 1), mirror_axes=(0, 2), **content)
    image = noise(2, *SHAPE)
    image[:, :, :3] = 0
    before = image.copy()
    out = by_command_line(tmp_path, model, image, "--save-probabilities")
    predictor = Predictor.from_folder(model, device="cpu")
    labels, shares = predictor.predict(image, SPACING, probabilities=True)
    expected = read_masks(out / "x.nii.gz").array[0]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype
    assert len(np.unique(labels)) > 2
    with np.load(out / "x.npz") as written:
        np.testing.assert_array_equal(shares, written["probabilities"])
    assert shares.shape == (len(predictor.output_names), *SHAPE)
    np.testing.assert_array_equal(image, before)
    # Again, with the same weights, from another type, and read-only.
    frozen = image.astype(np.float64)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(predictor.predict(frozen, SPACING), labels)


def test_options_are_those_of_the_command_line(tmp_path, plan):
    model = write_model(tmp_path / "model", plan, folds=(0, 1, 2), mirror_axes=(0, 1, 2))
    image = noise(2, *SHAPE)
    options = ("--folds", 0, 2, "--step", 1, "--no-tta", "--precision", "fp32")
    out = by_command_line(tmp_path, model, image, *options, "--save-probabilities")
    predictor = Predictor.from_folder(str(model), folds=[0, "2"], device="cpu", precision="fp32")
    _, shares = predictor.predict(image, SPACING, step=1, tta=False, probabilities=True)
    with np.load(out / "x.npz") as written:
        np.testing.assert_array_equal(shares, written["probabilities"])
    for changed in ({"step": 0.5, "tta": False}, {"step": 1, "tta": True}):
        _, other = predictor.predict(image, SPACING, probabilities=True, **changed)
        assert np.abs(other - shares).max() > 1e-4
    one = Predictor.from_folder(model, folds=0, device="cpu", precision="fp32")
    _, other = one.predict(image, SPACING, step=1, tta=False, probabilities=True)
    assert np.abs(other - shares).max() > 1e-4


@pytest.mark.parametrize("layout", ["masks", "folder"])
def test_masks_come_as_one_array(tmp_path, plan, layout):
    model = write_model(tmp_path / "model", plan, layout=layout, **STRUCTURES)
    image = noise(2, *SHAPE)
    out = by_command_line(tmp_path, model, image)
    masks = Predictor.from_folder(model, device="cpu").predict(image, SPACING)
    files = [out / "x" / f"{name}.nii.gz" for name in "abc"]
    if layout == "masks":
        files = [out / "x.nii.gz"]
    expected = np.concatenate([read_masks(file).array for file in files])
    assert masks.shape == (3, *SHAPE)
    np.testing.assert_array_equal(masks, expected)


def test_arrays_in_another_orientation_come_back_in_it(tmp_path, plan):
    predictor = Predictor.from_folder(write_model(tmp_path / "model", plan), device="cpu")
    image = noise(2, *SHAPE)
    plain = predictor.predict(image, SPACING)
    assert predictor.orientation == "LPS"
    turned = reorient_array(image, "LPS", "SRP")
    spacing = [SPACING[axis] for axis in (1, 2, 0)]
    found = predictor.predict(turned, spacing, orientation="SRP")
    np.testing.assert_array_equal(found, reorient_array(plain, "LPS", "SRP"))
    geometry = Geometry(spacing_mm=tuple(spacing), direction=direction_of("SRP"))
    out = by_command_line(tmp_path, predictor.work.model.folder, turned, geometry=geometry)
    np.testing.assert_array_equal(read_masks(out / "x.nii.gz").array[0], found)


def test_planes(tmp_path):
    plan = tiny_plan(tiny_configuration(2))
    model = write_model(tmp_path / "model", plan, mirror_axes=(0, 1), file_ending=".png")
    plane = np.random.default_rng(0).integers(0, 255, SHAPE[1:]).astype(np.uint8)
    write_labels(tmp_path / "in/x_0000.png", plane[None], Geometry(spacing_mm=(999.0, 1.0, 1.0)))
    out = predict(tmp_path, model)
    predictor = Predictor.from_folder(model, device="cpu")
    labels, shares = predictor.predict(plane, probabilities=True)
    np.testing.assert_array_equal(labels, read_masks(out / "x.png").array[0, 0])
    assert (labels.shape, shares.shape) == (plane.shape, (3, *plane.shape))
    np.testing.assert_array_equal(predictor.predict(plane[None]), labels)
    model = write_model(tmp_path / "masks", plan, layout="masks", **STRUCTURES)
    assert Predictor.from_folder(model, device="cpu").predict(plane).shape == (3, *plane.shape)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 2), (40, 3, 17)])
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_any_size_and_empty_images(tmp_path, plan, shape, value):
    predictor = Predictor.from_folder(write_model(tmp_path / "model", plan), device="cpu")
    labels = predictor.predict(np.full((2, *shape), value), SPACING)
    assert labels.shape == shape
    assert value or not labels.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_refused(tmp_path, plan, value):
    predictor = Predictor.from_folder(write_model(tmp_path / "model", plan), device="cpu")
    image = noise(2, *SHAPE).astype(np.float64)
    image[1, 2, 3, 4] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        predictor.predict(image, SPACING)


def test_threads_take_turns(tmp_path, plan):
    predictor = Predictor.from_folder(write_model(tmp_path / "model", plan), device="cpu")
    at_work, most = [], []

    def forward(batch, forward=predictor.work.forwards[0]):
        at_work.append(1)
        most.append(len(at_work))
        outputs = forward(batch)
        at_work.pop()
        return outputs

    predictor.work.forwards[0] = forward
    images = [noise(2, *SHAPE, seed=seed) for seed in range(4)]
    expected = [predictor.predict(image, SPACING) for image in images]
    found = {}

    def work(i):
        found[i] = predictor.predict(images[i], SPACING)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    for i, labels in enumerate(expected):
        np.testing.assert_array_equal(found[i], labels)


def test_files_say_where_they_went(tmp_path, plan):
    model = write_model(tmp_path / "model", plan)
    for name in ("b_0000", "b_0001", "a_0000", "a_0001"):
        write_image(tmp_path / f"in/{name}.nii.gz", noise(*SHAPE), Geometry(spacing_mm=SPACING))
    predictor = Predictor.from_folder(model, device=torch.device("cpu"))
    written = predictor.predict_files(str(tmp_path / "in"), str(tmp_path / "out"))
    assert written == (tmp_path / "out/a.nii.gz", tmp_path / "out/b.nii.gz")
    assert all(path.is_file() for path in written)
    some = predictor.predict_files(sorted((tmp_path / "in").glob("b_*")), tmp_path / "some")
    assert some == (tmp_path / "some/b.nii.gz",)
    assert predictor.label_values == {"a": 1, "b": 2}
    assert predictor.channel_names == ("T1", "T2")


def fail(*_):
    raise RuntimeError("unsupported operation")


def test_torch_predicts_where_the_fastest_engine_fails(tmp_path, plan, monkeypatch, caplog):
    model = write_model(tmp_path / "model", plan)
    expected = Predictor.from_folder(model, device="cpu", engine="torch")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(engines, "openvino_works", lambda: True)
    image = noise(2, *SHAPE)
    for start in (fail, lambda *_: fail):
        caplog.clear()
        monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], start=start))
        found = Predictor.from_folder(model, device="cpu")
        (warning,) = (record.message for record in caplog.records)
        assert "openvino cannot run this network: unsupported operation; predicting" in warning
        assert found.work.source == expected.work.source
        np.testing.assert_array_equal(
            found.predict(image, SPACING), expected.predict(image, SPACING)
        )
        with pytest.raises(EngineFailed, match="unsupported operation"):
            Predictor.from_folder(model, device="cpu", engine="openvino")


def test_models_that_vote_run_in_one_engine(tmp_path, plan, monkeypatch, caplog):
    models = [write_model(tmp_path / name, plan) for name in ("a", "b")]
    expected = Predictor.from_folder(models, device="cpu", engine="torch")
    real, counted = ENGINES["torch"].start, itertools.count()

    def sometimes(*args):
        return fail() if next(counted) else real(*args)

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(engines, "openvino_works", lambda: True)
    monkeypatch.setitem(ENGINES, "openvino", replace(ENGINES["openvino"], start=sometimes))
    found = Predictor.from_folder(models, device="cpu")
    assert "predicting with torch" in caplog.text
    assert found.work.source == expected.work.source


def test_wrong_options_are_told(tmp_path, plan):
    model = write_model(tmp_path / "model", plan)
    for options, message in [
        ({"folds": "x"}, "not a fold"),
        ({"folds": 3}, "no such checkpoint"),
        ({"device": "gpu"}, "unknown device"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"engine": "tensorrt"}, "unknown engine"),
        ({"checkpoint": "worst"}, "no such checkpoint"),
    ]:
        with pytest.raises(UserError, match=message):
            Predictor.from_folder(model, **options)
    with pytest.raises(UserError, match="step"):
        Predictor.from_folder(model, device="cpu").predict(noise(2, *SHAPE), SPACING, step=0)
