"""Series to NIfTI files; what the command makes of sources it cannot use."""

import numpy as np
import pytest
from dicom_files import write_series

from segkit.cli.main import main
from segkit.dataset.image_io import read_image

ARRAY = np.arange(4 * 5 * 6).reshape(4, 5, 6) + 1000


def test_every_series_becomes_a_file(tmp_path, capsys):
    write_series(tmp_path / "in" / "p1" / "ct", ARRAY, name="a")
    for name in "bc":
        for path in write_series(tmp_path / name, ARRAY + ord(name), name=name).iterdir():
            (tmp_path / "in" / "p2").mkdir(exist_ok=True)
            path.rename(tmp_path / "in" / "p2" / f"{name}{path.name}")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert "3 series" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["p1_ct_0000.nii.gz", "p2_s1_0000.nii.gz", "p2_s2_0000.nii.gz"]
    volume = read_image([tmp_path / "out" / "p1_ct_0000.nii.gz"])
    np.testing.assert_array_equal(volume.array[0], ARRAY - 1024.0)
    assert volume.geometry == read_image([tmp_path / "in" / "p1" / "ct"]).geometry


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["nowhere"], "no such file or folder", 1),
        (["empty"], "no DICOM series", 1),
        (["empty", "--from", "coco"], "is a file", 2),
        (["empty", "--labels", "a=1"], "--labels has no effect", 2),
        (["made"], "a dataset already", 1),
    ],
)
def test_refusals_of_the_command(tmp_path, monkeypatch, capsys, options, message, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "dataset.json").write_text('{"channel_names": {"0": "CT"}}')
    assert main(["convert", *options, "-o", "out"]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
