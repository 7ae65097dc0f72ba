"""The command line with networks that are not the plan's: another norm, a class of one's own."""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from segkit.cli.main import main
from segkit.dataset.demo import make_demo_dataset

CODE = """
from torch import nn

class Tiny(nn.Module):
    def __init__(self, in_channels, out_channels, patch_size, deep_supervision, width):
        super().__init__()
        self.body = nn.Conv2d(in_channels, width, 3, padding=1)
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, image):
        return self.head(self.body(image).relu())

class Narrow(Tiny):
    def forward(self, image):
        return super().forward(image)[..., 1:]
"""
OWN = ("--set", "network.class=users_own_nets:Tiny", "network.arguments={width: 4}")
FAST = ("--recipe", "debug", "--device", "cpu")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A tiny dataset, planned and preprocessed in 2D."""
    root = tmp_path_factory.mktemp("own")
    raw = root / "Dataset999_Demo"
    make_demo_dataset(raw, cases=5)
    assert main(["plan_and_preprocess", str(raw), "-w", str(root), "-j", "1", "-c", "2d"]) == 0
    return raw, root


@pytest.fixture
def _installed(tmp_path, monkeypatch):
    (tmp_path / "users_own_nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_own_nets", None)


def command(*words):
    return main([str(word) for word in words])


def train(planned, *more):
    raw, root = planned
    return command("train", raw, "2d", "-w", root, *FAST, "--overwrite", *more)


def predict(planned, output, *more):
    raw, root = planned
    image = sorted((raw / "imagesTs").iterdir())[:2]
    model = root / raw.name / "models" / "default_2d_debug"
    return command("predict", "-m", model, "-o", output, "--no-tta", *more, "-i", *image)


def labels(folder):
    (path,) = folder.glob("*.nii.gz")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.usefixtures("_installed")
def test_a_class_is_trained_recorded_and_predicts_where_it_is_allowed(planned, tmp_path, capsys):
    raw, root = planned
    assert train(planned, *OWN) == 0
    model = root / raw.name / "models" / "default_2d_debug"
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    network = json.loads((model / "model.json").read_text())["network"]
    assert network["class"] == "users_own_nets:Tiny"
    assert network["arguments"]["width"] == 4
    capsys.readouterr()
    assert predict(planned, tmp_path / "no") == 1
    assert "--allow-code users_own_nets:Tiny" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert predict(planned, tmp_path / "yes", "--allow-code", "users_own_nets:Tiny") == 0
    assert "network: users_own_nets:Tiny of " in capsys.readouterr().err
    assert labels(tmp_path / "yes").shape
    # Another network cannot become another fold of the same model.
    assert train(planned, "--fold", 1, "--set", "network.norm=batch") == 1
    assert "network class (users_own_nets:Tiny, now None)" in capsys.readouterr().err


def test_a_machine_without_the_module_says_so(planned, tmp_path, capsys):
    assert predict(planned, tmp_path, "--allow-code", "users_own_nets:Tiny") == 1
    assert "this machine has no module 'users_own_nets'" in capsys.readouterr().err


@pytest.mark.usefixtures("_installed")
def test_a_class_that_does_not_do_is_refused_before_anything_is_lost(planned, capsys):
    raw, root = planned
    fold = root / raw.name / "models" / "default_2d_debug" / "fold_0"
    kept = fold / "final.pt", fold.parent / "model.json"
    before = [path.read_bytes() for path in kept]
    assert train(planned, "--set", "network.class=users_own_nets:Narrow", OWN[2]) == 1
    assert "users_own_nets:Narrow: the output in train mode has voxels" in capsys.readouterr().err
    assert [path.read_bytes() for path in kept] == before


def test_batch_norm_dropout_and_fewer_stages_are_values(planned, tmp_path):
    changed = ("network.norm=batch", "network.dropout=0.1", "network.stages=2")
    assert train(planned, "--set", *changed, "network.checkpointing=true") == 0
    assert predict(planned, tmp_path / "torch", "--precision", "fp32") == 0
    pytest.importorskip("openvino")
    engine = ("--engine", "openvino", "--precision", "fp32", "--device", "cpu")
    assert predict(planned, tmp_path / "openvino", *engine) == 0
    assert np.mean(labels(tmp_path / "torch") != labels(tmp_path / "openvino")) < 0.001
