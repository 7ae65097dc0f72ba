"""``segkit predict`` with one model and with several, whole, in parts, and where it stopped."""

import json

import numpy as np
import pytest
from tiny import tiny_configuration, tiny_network, tiny_plan, write_model

from segkit.cli.main import main
from segkit.dataset.image_io import read_image, read_labels
from segkit.dataset.image_io.sitk_io import write as write_image
from segkit.inference.record import read_record, record_path
from segkit.types import Geometry
from segkit.workflows.predictor import Predictor

SHAPE, GRID = (9, 14, 11), Geometry(spacing_mm=(2.0, 1.0, 1.5))
CASES = ("x", "y", "z")


@pytest.fixture
def models(tmp_path):
    """Three models of one task: two spacings and axis orders, and a 2D one."""
    coarse = tiny_configuration(spacing_mm=(2.5, 1.7, 1.1))
    flat = tiny_configuration(2, network=tiny_network(2, 2))
    plans = {
        "fine": tiny_plan(tiny_configuration(stages=2), orientation="LPS"),
        "coarse": tiny_plan(coarse, transpose_forward=(1, 2, 0), orientation="RAS"),
        "flat": tiny_plan(flat, orientation="LPS"),
    }
    for name, plan in plans.items():
        folds = (1, 2) if name == "fine" else (3,)
        write_model(tmp_path / name, plan, folds=folds, mirror_axes=(0,))
    rng = np.random.default_rng(0)
    for case in CASES:
        image = rng.normal(10, 3, SHAPE).astype(np.float32)
        image[:2] = 0
        write_image(tmp_path / f"in/{case}_0000.nii.gz", image, GRID)
    return [tmp_path / name for name in plans]


def segkit(capsys, command, *arguments, code=0):
    given = [command, *map(str, arguments), "-j", "1", "--device", "cpu"]
    found = main(given)
    out = capsys.readouterr()
    assert found == code, out.err
    return out


def predict(capsys, models, out, *options, code=0):
    given = ("-i", out.parent / "in", "-o", out, "--precision", "fp32", *options)
    return segkit(capsys, "predict", "-m", *models, *given, code=code)


def read(folder, case):
    return read_labels(folder / f"{case}.nii.gz").array


def test_several_models_predict_what_their_saved_probabilities_average_to(tmp_path, models, capsys):
    alone = [tmp_path / f"out_{model.name}" for model in models]
    for model, out in zip(models, alone, strict=True):
        predict(capsys, [model], out, "--save-probabilities")
    together = tmp_path / "together"
    predict(capsys, models, together, "--weights", 2, 1, 1, "--save-probabilities")
    segkit(capsys, "ensemble", "-i", *alone, "-o", tmp_path / "files", "--weights", 2, 1, 1)
    for case in CASES:
        parts = [np.load(out / f"{case}.npz")["probabilities"] for out in alone]
        shares = np.load(together / f"{case}.npz")["probabilities"]
        expected = (2 * parts[0] + parts[1] + parts[2]) / np.float32(4)
        np.testing.assert_allclose(shares, expected, atol=1e-6)
        np.testing.assert_array_equal(read(together, case)[0], shares.argmax(axis=0))
        apart = read(together, case) != read(tmp_path / "files", case)
        highest = np.sort(expected, axis=0)[-2:]
        assert not apart.any() or (highest[1] - highest[0])[apart[0]].max() < 1e-6
        assert (read(together, case) != read(alone[0], case)).any()
    predictor = Predictor.from_folder(
        dict(zip(models, (2, 1, 1), strict=True)), device="cpu", precision="fp32"
    )
    image = read_image([tmp_path / "in/z_0000.nii.gz"]).array
    np.testing.assert_array_equal(predictor.predict(image, GRID.spacing_mm), read(together, "z")[0])
    sources = [read_record(record_path(out)).source for out in (together, tmp_path / "files")]
    assert [[m.model for m in source.members] for source in sources] == [
        ["fine", "coarse", "flat"]
    ] * 2


def test_who_predicts_is_told(tmp_path, models, capsys):
    told = predict(capsys, models[:2], tmp_path / "out", "--step", 1, "--engine", "torch").err
    assert "model fine: folds 1, 2, final.pt, weight 1" in told
    assert "model coarse: fold 3, final.pt, weight 1" in told
    assert "torch in float32 on cpu, step 1, averaged over 2 mirrored views" in told


def test_models_of_other_mirror_axes_tell_their_views(tmp_path, models, capsys):
    settings = models[1] / "model.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "mirror_axes": [0, 1, 2]}))
    told = predict(capsys, models[:2], tmp_path / "out", "--step", 1, "--engine", "torch").err
    assert "model fine: folds 1, 2, final.pt, weight 1, 2 views" in told
    assert "model coarse: fold 3, final.pt, weight 1, 8 views" in told
    assert "step 1, averaged over the mirrored views of each model" in told
    told = predict(capsys, models[:2], tmp_path / "out", "--step", 1, "--no-tta").err
    assert "views" not in told
    assert "step 1, not mirrored" in told


def test_parts_and_going_on(tmp_path, models, capsys):
    out = tmp_path / "out"
    parts = ("--num-parts", 2, "--part-id")
    assert "predicted 2 case(s)" in predict(capsys, models[:1], out, *parts, 0).out
    assert "predicted 1 case(s)" in predict(capsys, models[:1], out, *parts, 1).out
    stamp = (out / "x.nii.gz").stat().st_mtime_ns
    (out / "y.nii.gz").unlink()
    told = predict(capsys, models[:1], out, "--continue")
    assert "predicted 3 case(s) (2 of them before)" in told.out
    assert "2 of 3 cases are predicted already" in told.err
    told = predict(capsys, models[:1], out, "--continue")
    assert "3 of 3 cases are predicted already" in told.err
    assert "0 of 0" not in told.err
    assert (out / "x.nii.gz").stat().st_mtime_ns == stamp
    told = predict(capsys, models[:1], out, "--continue", "--no-tta")
    assert "of them before" not in told.out
    assert "predicted already" not in told.err
    assert "there is no part 2 of 2" in predict(capsys, models[:1], out, *parts, 2, code=2).err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--weights", 1), "1 weights for 2 members"),
        (("--weights", 1, 0), "the weight 0"),
        (("--folds", 1), "no such checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, models, capsys, options, told):
    code = 1 if "--folds" in options else 2
    assert told in predict(capsys, models[:2], tmp_path / "out", *options, code=code).err
    assert not (tmp_path / "out").exists()
