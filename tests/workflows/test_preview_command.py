"""``segkit preview`` through the real command line."""

import pytest
from test_sides_end_to_end import make_dataset

from segkit.cli.main import main

SMALL = ("--set", "sampling.patch_size=[8,16,16]")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    root = tmp_path_factory.mktemp("preview")
    raw, work = root / "Dataset007_Sides", root / "work"
    make_dataset(raw, mirror_pairs=[])
    assert main(["plan_and_preprocess", str(raw), "-w", str(work), "-j", "1"]) == 0
    return raw, work


def preview(planned, *arguments):
    raw, work = planned
    return main(["preview", str(raw), *map(str, arguments), "-w", str(work)])


def test_the_same_command_gives_the_same_picture(planned, tmp_path, capsys):
    pictures = [tmp_path / f"{name}.png" for name in "abc"]
    for picture, seed in zip(pictures, (0, 0, 1), strict=True):
        settings = (*SMALL, f"seed={seed}")
        code = preview(planned, "3d_fullres", "--recipe", "da5", *settings, "-o", picture)
        assert code == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip() == str(picture)
    first, second, other = (picture.read_bytes() for picture in pictures)
    assert first == second != other


def test_without_a_name_it_lies_in_the_work_folder(planned, capsys):
    raw, work = planned
    assert preview(planned, "2d", "--patches", "2", "--recipe", "quick+da5") == 0
    expected = work / raw.name / "previews" / "default_2d_quick+da5.png"
    assert capsys.readouterr().out.strip() == str(expected)
    assert expected.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("2d", "--patches", "0"), 2, "1 to 60 patches, not 0"),
        (("2d", "-o", "x.jpg"), 2, "the picture is a .png"),
        (("3d", "--patches", "1"), 1, "no configuration '3d'"),
        (("2d", "--set", "p_channel_dropout=0.5"), 1, "there is one channel only"),
        (("2d", "--set", "mirror=[2]"), 1, "no axis 2 to mirror"),
        (("2d", "--recipe", "da6"), 1, "did you mean 'da5'"),
        (("2d", "--set", "augment.extra=[{class: 'no.such:X'}]"), 1, "cannot be imported"),
    ],
)
def test_mistakes_are_told(planned, capsys, arguments, code, message):
    assert preview(planned, *arguments) == code
    assert message in capsys.readouterr().err
