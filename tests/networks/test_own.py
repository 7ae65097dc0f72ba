"""A user's own class: found, called and brought into form; refused where that fails."""

import sys

import pytest
import torch

from segkit.errors import UserError
from segkit.networks.build import build_network
from segkit.networks.own import (
    OwnNetwork,
    allow_code,
    build_own_network,
    check_allowed,
    import_class,
)
from segkit.planning.plan import NetworkPlan

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_channels, out_channels, patch_size, deep_supervision, width=4):
        super().__init__()
        assert isinstance(patch_size, tuple)
        self.deep = deep_supervision
        self.body = nn.Conv2d(in_channels, width, 3, padding=1)
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, image):
        fine = self.head(self.body(image).view(len(image), -1, *image.shape[2:]))
        return (fine, fine[..., ::2, ::2]) if self.deep else fine

def make(in_channels, out_channels, patch_size, deep_supervision):
    return 7

def fails(**told):
    raise ValueError("no such thing")
"""


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    """A module of the user's that Python finds."""
    (tmp_path / "users_nets.py").write_text(CODE)
    (tmp_path / "broken_nets.py").write_text("import segkit_has_no_such_module")
    (tmp_path / "failing_nets.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("users_nets", "broken_nets", "failing_nets"):
        sys.modules.pop(name, None)


def plan(path="users_nets:Net", **arguments):
    told = {"patch_size": [8, 8], "deep_supervision": True, **arguments}
    return NetworkPlan(
        features_per_stage=(2, 4),
        strides=((1, 1), (2, 2)),
        kernel_sizes=((3, 3), (3, 3)),
        convs_per_stage=(1, 1),
        convs_per_decoder_stage=(1,),
        class_=path,
        arguments=told,
    )


def build(*args, **arguments):
    network = plan(*args, **arguments)
    return build_network(network, in_channels=2, out_channels=3, deep_supervision=False)


def test_it_is_called_with_channels_and_arguments():
    network = build(width=5)
    assert isinstance(network, OwnNetwork)
    assert network.network.body.weight.shape == (5, 2, 3, 3)
    assert network.network.head.weight.shape == (3, 5, 1, 1)


def test_training_gets_a_list_and_prediction_the_finest():
    network = build()
    # Channels lie side by side, as they do on CPUs: `view` in the class still works.
    image = torch.randn(1, 2, 8, 8).to(memory_format=torch.channels_last)
    outputs = network(image)
    assert [tuple(output.shape[2:]) for output in outputs] == [(8, 8), (4, 4)]
    assert torch.equal(network.eval()(image), outputs[0])
    single = build(deep_supervision=False)
    assert single(image).shape == single.eval()(image).shape == (1, 3, 8, 8)


def test_the_file_it_comes_from_is_named(tmp_path, caplog):
    with caplog.at_level("INFO", logger="segkit"):
        import_class("users_nets:Net")
    assert f"users_nets:Net of {tmp_path / 'users_nets.py'}" in caplog.text


@pytest.mark.parametrize(
    ("path", "message", "fix"),
    [
        ("absent_nets.inner:Net", "no module 'absent_nets'", "pip install -e"),
        ("users_nets.inner:Net", "no module|not a package", "pip install -e"),
        ("broken_nets:Net", "needs the module 'segkit_has_no_such_module'", "install segkit_has"),
        ("failing_nets:Net", "fails when it is imported: ZeroDivisionError", "-v"),
        ("users_nets:Nte", "has no class 'Nte'", "did you mean 'Net'"),
        ("users_nets:make", "must give a torch.nn.Module, got int", "name the class"),
        ("users_nets:fails", "cannot be called: ValueError: no such thing", "in_channels=2"),
    ],
)
def test_what_cannot_be_had_is_refused(path, message, fix):
    with pytest.raises(UserError, match=message) as caught:
        build(path)
    assert fix in caught.value.fix


def test_arguments_it_does_not_take_are_named():
    with pytest.raises(UserError, match=r"TypeError: .*'depth'") as caught:
        build_own_network("users_nets:Net", {"depth": 3}, in_channels=1, out_channels=2)
    assert "in_channels=1, out_channels=2, depth=3" in caught.value.fix


def test_code_runs_only_where_it_is_allowed():
    check_allowed(None, where="model.json")
    with allow_code("a:C"), allow_code("a:B", "a:D"):
        for path in ("a:B", "a:C", "a:D"):
            check_allowed(path, where="model.json")
    refused = pytest.raises(UserError, match="code that is not part of segkit: a:B")
    with refused as caught, allow_code("a:C"):
        check_allowed("a:B", where="model.json")
    assert "--allow-code a:B" in caught.value.fix
