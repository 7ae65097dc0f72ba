"""Weights of nnU-Net: every tensor has one place, and the network computes the same."""

from dataclasses import replace

import pytest
import torch
from nnunet_files import configuration, forward, state_dict

from segkit.errors import UserError
from segkit.interop.nnunet.architecture import Architecture, network_plan
from segkit.interop.nnunet.weights import from_nnunet, tensor_names, to_nnunet, trained_network
from segkit.networks.build import build_network

NAMES = ("PlainConvUNet", "ResidualEncoderUNet")


def planned(name="PlainConvUNet", ndim=3):
    architecture = configuration(name, ndim)["architecture"]
    kept = {key: architecture[key] for key in ("network_class_name", "arch_kwargs")}
    return network_plan(Architecture(**kept), "plans.json")


@pytest.mark.parametrize("name", NAMES)
def test_batch_norm_is_told_by_the_weights(name):
    weights = state_dict(name, batch=True)
    network = trained_network(weights, planned(name))
    assert network == replace(planned(name), norm="batch")
    own, report = from_nnunet(weights, network, in_channels=2, out_channels=3, source="a.pth")
    assert {*report.mapped, *report.copies} == weights.keys()
    built = build_network(network, in_channels=2, out_channels=3, deep_supervision=False)
    built.load_state_dict(own)
    image = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = forward(weights, image, name)
    torch.testing.assert_close(built.eval()(image), expected, rtol=1e-4, atol=1e-5)
    assert trained_network(state_dict(name), planned(name)) == planned(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_dropout_layer_moves_the_copies_of_the_norm(name):
    weights = state_dict(name, dropout=True)
    own, report = imported(weights, name)
    assert {*report.mapped, *report.copies} == weights.keys()
    assert to_nnunet(own, replace(planned(name), dropout=0.2)).keys() == weights.keys()


def imported(weights, name="PlainConvUNet", ndim=3):
    network = planned(name, ndim)
    return from_nnunet(weights, network, in_channels=2, out_channels=3, source="a.pth")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_network_computes_what_plain_torch_computes(name, ndim):
    weights = state_dict(name, ndim)
    own, _ = imported(weights, name, ndim)
    network = build_network(
        planned(name, ndim), in_channels=2, out_channels=3, deep_supervision=False
    )
    network.load_state_dict(own)
    image = torch.randn(2, 2, *(4, 8, 8)[-ndim:], generator=torch.Generator().manual_seed(1))
    expected = forward(weights, image, name)
    torch.testing.assert_close(network.eval()(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_reported_and_comes_back(name):
    weights = state_dict(name)
    own, report = imported(weights, name)
    assert {*report.mapped, *report.copies} == weights.keys()
    assert sorted(report.mapped.values()) == sorted(own)
    back = to_nnunet(own, planned(name))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_an_encoder_tensor_has_four_names_a_decoder_tensor_two():
    names = tensor_names(planned())
    unit = "encoder.stages.1.0.convs.0"
    parts = ("conv.weight", "all_modules.0.weight")
    assert names["encoder.stages.1.convs.0.conv.weight"] == (
        *(f"{unit}.{part}" for part in parts),
        *(f"decoder.{unit}.{part}" for part in parts),
    )
    assert len(names["decoder.stages.0.convs.1.norm.bias"]) == 2
    assert names["decoder.heads.1.bias"] == ("decoder.seg_layers.1.bias",)


def test_wrapped_networks_and_missing_copies_are_read():
    weights = state_dict()
    own, _ = imported(weights)
    bare = {
        f"module._orig_mod.{key}": tensor
        for key, tensor in weights.items()
        if "all_modules" not in key and not key.startswith("decoder.encoder.")
    }
    again, report = imported(bare)
    assert report.copies == ()
    assert all(torch.equal(own[key], again[key]) for key in own)


def test_a_network_without_biases_gets_zeros():
    weights = {
        key: tensor
        for key, tensor in state_dict().items()
        if not key.endswith((".conv.bias", ".all_modules.0.bias"))
        and not (".transpconvs." in key and key.endswith("bias"))
    }
    own, report = imported(weights)
    assert "decoder.upsamplings.0.bias" in report.zeros
    assert not own["encoder.stages.0.convs.0.conv.bias"].any()
    assert "biases set to zero" in report.describe()


def changed(key, value):
    return {**state_dict(), key: value}


FIRST = "encoder.stages.0.0.convs.0.conv.weight"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (changed("attention.0.weight", torch.zeros(1)), "attention.0.weight is unknown"),
        ({k: v for k, v in state_dict().items() if k != FIRST}, f"{FIRST} is missing"),
        (changed(FIRST, torch.zeros(4, 2, 3, 3, 3)), "has shape (4, 2, 3, 3, 3), expected"),
        (changed(FIRST, torch.full((4, 2, 1, 3, 3), torch.nan)), "NaN or infinity"),
        (changed(FIRST, torch.zeros(4, 2, 1, 3, 3)), "differs from"),
        (changed(FIRST, "text"), "no floating point numbers"),
        (state_dict("ResidualEncoderUNet"), "is unknown"),
        ({}, "is missing"),
    ],
)
def test_what_does_not_fit_is_refused(weights, message):
    with pytest.raises(UserError) as error:
        imported(weights)
    assert message in error.value.what
