"""``segkit ensemble``: the numpy mean of saved probabilities, decided; and what is refused."""

import json
from dataclasses import replace

import numpy as np

from segkit.cli.main import main
from segkit.dataset.image_io import read_labels, write_labels
from segkit.inference.export import save_probabilities
from segkit.inference.record import MemberSource, PredictionSource, open_record, read_record
from segkit.inference.record import record_path as path_of
from segkit.types import Geometry

SHAPE = (3, 4, 5)
GRID = Geometry(spacing_mm=(3.0, 1.0, 2.0), origin=(5.0, -6.0, 7.5))
LABELS = {"background": 0, "b": 200, "a": 7}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
STRUCTURES = {"background": 0, "left": 1, "right": 2}


def content(labels=LABELS, **more):
    return {
        "channel_names": {"0": "MR"},
        "labels": labels,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        **more,
    }


def put(folder, case, shares, grid=GRID):
    folder.mkdir(exist_ok=True)
    save_probabilities(folder / f"{case}.npz", shares)
    write_labels(folder / f"{case}.nii.gz", np.zeros(shares.shape[1:], np.uint8), grid)


def put_folder(folder, seed, outputs=3, cases="xy", described=None):
    rng = np.random.default_rng(seed)
    shares = {case: rng.dirichlet([1.0] * outputs, SHAPE) for case in cases}
    shares = {case: np.moveaxis(s, -1, 0).astype(np.float32) for case, s in shares.items()}
    for case, each in shares.items():
        put(folder, case, each)
    (folder / "dataset.json").write_text(json.dumps(described or content()))
    return shares


def ensemble(capsys, *arguments, code=0):
    found = main(["ensemble", *map(str, arguments), "-j", "2"])
    out = capsys.readouterr()
    assert found == code, out.err
    assert "Traceback" not in out.err
    return out.err if code else out.out


def read(path):
    volume = read_labels(path)
    assert volume.geometry == GRID
    return volume.array[0]


def test_the_mean_decides(tmp_path, capsys):
    folders = [tmp_path / name for name in "abc"]
    members = [put_folder(folder, seed) for seed, folder in enumerate(folders)]
    out = tmp_path / "out"
    told = ensemble(capsys, "-i", *folders, "-o", out, "--save-probabilities")
    assert told == f"averaged 3 predictions of 2 case(s), in {out}\n"
    for case in "xy":
        mean = np.mean([member[case] for member in members], axis=0, dtype=np.float32)
        with np.load(out / f"{case}.npz") as saved:
            np.testing.assert_allclose(saved["probabilities"], mean, rtol=1e-6)
            mean = saved["probabilities"]
        expected = np.array([0, 200, 7])[mean.argmax(axis=0)]
        np.testing.assert_array_equal(read(out / f"{case}.nii.gz"), expected)


def test_weights(tmp_path, capsys):
    first, second = put_folder(tmp_path / "a", 0), put_folder(tmp_path / "b", 1)
    folders = ("-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    ensemble(capsys, *folders, "--weights", 3, 1)
    mean = (3 * first["x"] + second["x"]) / 4
    expected = np.array([0, 200, 7])[mean.argmax(axis=0)]
    np.testing.assert_array_equal(read(tmp_path / "out/x.nii.gz"), expected)
    assert "2 members" in ensemble(capsys, *folders, "--weights", 1, code=2)


def test_regions_are_painted_and_structures_stand_for_themselves(tmp_path, capsys):
    kinds = {
        "regions": (content(REGIONS, regions_class_order=[1, 2]), [1, 2]),
        "structures": (content(STRUCTURES, label_encoding="multilabel"), None),
    }
    for name, (described, paint) in kinds.items():
        folders = [tmp_path / f"{name}{i}" for i in range(2)]
        members = [put_folder(folder, i, 2, "x", described) for i, folder in enumerate(folders)]
        ensemble(capsys, "-i", *folders, "-o", tmp_path / name)
        whole, core = (np.mean([m["x"] for m in members], axis=0, dtype=np.float32)) > 0.5
        expected = np.where(core, 2, np.where(whole, 1, 0)) if paint else whole + 2 * core
        np.testing.assert_array_equal(read(tmp_path / name / "x.nii.gz"), expected)


def test_missing_cases_are_named(tmp_path, capsys):
    put_folder(tmp_path / "a", 0, cases="xyz")
    put_folder(tmp_path / "b", 1, cases="vx")
    told = ensemble(capsys, "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", code=1)
    assert f"{tmp_path / 'a'}: v" in told
    assert f"{tmp_path / 'b'}: y, z" in told
    assert not (tmp_path / "out").exists()


def test_other_labels_grids_and_shapes(tmp_path, capsys):
    folders = ("-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    put_folder(tmp_path / "a", 0, cases="x")
    put_folder(tmp_path / "b", 1, cases="x", described=content({"background": 0, "b": 1, "a": 7}))
    assert "the labels differ: b 200, a 7 | b 1, a 7" in ensemble(capsys, *folders, code=1)
    shares = put_folder(tmp_path / "b", 1, cases="x")["x"]
    put(tmp_path / "b", "x", shares, replace(GRID, spacing_mm=(3.1, 1.0, 2.0)))
    assert "spacing_mm differs" in ensemble(capsys, *folders, code=1)
    put(tmp_path / "b", "x", shares[:, 1:])
    assert "shape (3, 4, 5) and (2, 4, 5)" in ensemble(capsys, *folders, code=1)
    put(tmp_path / "b", "x", shares[1:])
    assert "expected (3, 3, 4, 5)" in ensemble(capsys, *folders, code=1)
    (tmp_path / "b/x.npz").write_bytes(b"no archive")
    assert "cannot be read" in ensemble(capsys, *folders, code=1)
    (tmp_path / "b/x.nii.gz").unlink()
    assert "no label map" in ensemble(capsys, *folders, code=1)


def test_what_is_no_ensemble(tmp_path, capsys):
    put_folder(tmp_path / "a", 0)
    out = ("-o", tmp_path / "out")
    assert "several members" in ensemble(capsys, "-i", tmp_path / "a", *out, code=2)
    two = ("-i", tmp_path / "a", tmp_path / "b")
    assert "no such folder" in ensemble(capsys, *two, *out, code=1)
    (tmp_path / "b").mkdir()
    assert "--save-probabilities" in ensemble(capsys, *two, *out, code=1)
    assert "overwrite an input" in ensemble(capsys, *two, "-o", tmp_path / "b", code=1)


def test_records_say_what_the_labels_are_and_who_predicted(tmp_path, capsys):
    folders = [tmp_path / name for name in "ab"]
    for i, folder in enumerate(folders):
        put_folder(folder, i)
        (folder / "dataset.json").unlink()
        members = [
            MemberSource(model=f"{i}{k}", checkpoint="final", folds={"0": "h"}, made_from="f")
            for k in range(i + 1)
        ]
        source = PredictionSource(
            members=tuple(members),
            step=0.5,
            mirrored=True,
            precision="float32",
            engine="torch",
            dataset=content(),
            postprocessing="rules of its own",
        )
        told = ensemble(capsys, "-i", *folders, "-o", tmp_path / "out", code=1)
        assert "nothing says what" in told or "no such folder" in told
        with open_record(folder, source) as record:
            record.add("x", "images of x")
    ensemble(capsys, "-i", *folders, "-o", tmp_path / "out", "--weights", 1, 3)
    record = read_record(path_of(tmp_path / "out"))
    assert [(m.model, m.share) for m in record.source.members] == [
        ("00", 1.0),
        ("10", 1.5),
        ("11", 1.5),
    ]
    assert record.cases.keys() == {"x", "y"}
    assert record.source.postprocessing is None
