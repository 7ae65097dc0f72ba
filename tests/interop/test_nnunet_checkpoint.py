"""Checkpoints are read without running code; what would is named."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from nnunet_files import checkpoint, state_dict

from segkit.errors import UserError
from segkit.interop.nnunet.checkpoint import read_checkpoint


class Runs:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(tmp_path, content):
    torch.save(content, tmp_path / "checkpoint_final.pth")
    return tmp_path / "checkpoint_final.pth"


def refusal(path):
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    return error.value.what


def test_numpy_numbers_are_let_in(tmp_path):
    numbers = [np.dtype(kind).type(1) for kind in ("f4", "f8", "i8", "u1", "bool")]
    content = checkpoint(state_dict(), more=numbers, dtypes=np.dtype("f4"))
    found = read_checkpoint(saved(tmp_path, content))
    assert (found.trainer, found.configuration) == ("nnUNetTrainer", "3d_fullres")
    assert found.mirror_axes == (0, 1, 2)
    assert len(found.weights) == len(state_dict())


def test_the_module_numpy_had_before_version_2_is_known(tmp_path):
    path = saved(tmp_path, checkpoint(state_dict()))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"numpy._core.", b"numpy.core."))
    assert read_checkpoint(path).trainer == "nnUNetTrainer"


def test_it_leaves_nothing_allowed_behind(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(saved(tmp_path, checkpoint(state_dict())))
    assert set(torch.serialization.get_safe_globals()) == before


def test_axes_may_be_missing(tmp_path):
    content = checkpoint(state_dict(), inference_allowed_mirroring_axes=None)
    assert read_checkpoint(saved(tmp_path, content)).mirror_axes == ()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Runs(os.mkdir, "owned"), "mkdir"),
        (Runs(print, "owned"), "print"),
        (Runs(eval, "1"), "eval"),
        (Runs(np.frombuffer, b"1234"), "frombuffer"),
    ],
)
def test_code_is_not_run(tmp_path, monkeypatch, capsys, call, name):
    monkeypatch.chdir(tmp_path)
    what = refusal(saved(tmp_path, checkpoint(state_dict(), more=call)))
    assert name in what
    assert "could run code" in what
    assert not (tmp_path / "owned").exists()
    assert "owned" not in capsys.readouterr().out


def test_numpy_objects_are_no_numbers(tmp_path):
    scalar = np.float64(0).__reduce__()[0]
    what = refusal(saved(tmp_path, checkpoint({}, more=Runs(scalar, np.dtype("O"), [1]))))
    assert "ObjectDType, which could run code" in what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "no checkpoint of nnU-Net"),
        ([1], "no checkpoint of nnU-Net"),
        (checkpoint([1]), "no checkpoint of nnU-Net"),
        (checkpoint({}, trainer_name=None), "does not name its trainer"),
        (checkpoint({}, init_args=None), "does not name its trainer"),
        (checkpoint({}, inference_allowed_mirroring_axes=(0, 7)), "mirror axes"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    assert message in refusal(saved(tmp_path, content))


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_damaged_files_are_refused(tmp_path, size):
    path = saved(tmp_path, checkpoint(state_dict()))
    path.write_bytes(path.read_bytes()[:size])
    assert "damaged" in refusal(path)


def test_a_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(pickle.dumps(Runs(eval, "1"), protocol=2))
    assert refusal(path)


def test_missing(tmp_path):
    assert "no such checkpoint" in refusal(tmp_path / "checkpoint_final.pth")
