"""nnU-Net's architectures: what is the same network here, and what is not."""

import pytest
from nnunet_files import DECODER, ENCODER, FEATURES, KERNELS, STRIDES, arch_kwargs

from segkit.errors import UserError
from segkit.interop.nnunet.architecture import Architecture, architecture_of, network_plan

OLD_MODULE = "dynamic_network_architectures.architectures.residual_unet"
MODULE = "dynamic_network_architectures.architectures.unet"


def planned(name="PlainConvUNet", module=MODULE, ndim=3, **changes):
    kwargs = {**arch_kwargs(name if name in ENCODER else "PlainConvUNet", ndim), **changes}
    architecture = Architecture(network_class_name=f"{module}.{name}", arch_kwargs=kwargs)
    return network_plan(architecture, "plans.json")


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("PlainConvUNet", MODULE, "plain"),
        ("ResidualEncoderUNet", MODULE, "residual_encoder"),
        ("ResidualEncoderUNet", OLD_MODULE, "residual_encoder"),
    ],
)
def test_the_numbers_are_taken_over(name, module, kind):
    network = planned(name, module)
    assert (network.kind, network.features_per_stage) == (kind, FEATURES)
    assert (network.strides, network.kernel_sizes) == (STRIDES, KERNELS)
    assert network.convs_per_stage == ENCODER[name]
    assert network.convs_per_decoder_stage == DECODER[name]


def test_single_numbers_stand_for_all_stages_and_axes():
    network = planned(
        ndim=2,
        features_per_stage=8,
        kernel_sizes=3,
        strides=[1, 2, [2, 1]],
        n_conv_per_stage=2,
        n_conv_per_stage_decoder=1,
    )
    assert network.features_per_stage == (8, 8, 8)
    assert network.kernel_sizes == ((3, 3),) * 3
    assert network.strides == ((1, 1), (2, 2), (2, 1))
    assert network.convs_per_decoder_stage == (1, 1)


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_back_and_forth(name, ndim):
    network = planned(name, ndim=ndim)
    written = architecture_of(network)
    assert written.pop("_kw_requires_import") == ["conv_op", "norm_op", "dropout_op", "nonlin"]
    assert written["arch_kwargs"] == arch_kwargs(name, ndim)
    assert network_plan(Architecture(**written), "plans.json") == network


def test_batch_norm_and_dropout():
    network = planned(
        norm_op="torch.nn.modules.batchnorm.BatchNorm3d",
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        dropout_op="torch.nn.Dropout3d",
        dropout_op_kwargs={"p": 0.2},
    )
    assert (network.norm, network.dropout) == ("batch", 0.2)
    written = architecture_of(network)
    del written["_kw_requires_import"]
    assert network_plan(Architecture(**written), "plans.json") == network


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Primus"}, "is not known here"),
        ({"module": "os"}, "is not known here"),
        ({"norm_op": "torch.nn.modules.batchnorm.BatchNorm2d"}, "norm_op 'BatchNorm2d'"),
        ({"norm_op": "torch.nn.LayerNorm"}, "norm_op 'LayerNorm'"),
        ({"norm_op_kwargs": {"affine": True, "track_running_stats": True}}, "track_running_stats"),
        ({"norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d"}, "InstanceNorm2d"),
        ({"norm_op": None}, "norm_op 'none'"),
        ({"norm_op_kwargs": {"eps": 1e-3, "affine": True}}, "eps"),
        ({"norm_op_kwargs": {"eps": "x", "affine": True}}, "eps"),
        ({"norm_op_kwargs": None}, "norm_op_kwargs"),
        ({"dropout_op": "torch.nn.Dropout"}, "dropout_op 'Dropout'"),
        ({"nonlin": "torch.nn.ReLU"}, "ReLU"),
        ({"nonlin_kwargs": {"negative_slope": 0.2}}, "negative_slope"),
        ({"nonlin_first": True}, "nonlin_first is True"),
        ({"squeeze_excitation": True}, "squeeze_excitation"),
        ({"attention": True}, "unknown key 'attention'"),
        ({"n_stages": 1}, "1 stages"),
        ({"n_stages": 10**9, "kernel_sizes": 3}, "stages"),
        ({"features_per_stage": [4, 8, 10**9]}, "features up to 1000000000"),
        ({"n_conv_per_stage": [4, 8, 10**9]}, "convolutions up to 1000000000"),
        ({"kernel_sizes": [[3, 3, 3]] * 2 + [[3, 3, 999]]}, "kernels up to 999"),
    ],
)
def test_other_networks_are_refused(changes, message):
    with pytest.raises(UserError) as error:
        planned(**changes)
    assert message in error.value.what


def test_a_stem_of_another_width_is_refused():
    with pytest.raises(UserError, match="stem_channels is 99"):
        planned("ResidualEncoderUNet", stem_channels=99)
    assert planned("ResidualEncoderUNet", stem_channels=FEATURES[0])
