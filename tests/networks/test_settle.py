"""The network that is trained: the planned one, changed by a recipe."""

from dataclasses import replace

import pytest

from segkit.config import NetworkConfig
from segkit.errors import UserError
from segkit.networks.settle import settled_network, settled_unet
from segkit.planning.plan import NetworkPlan

PLANNED = NetworkPlan(
    features_per_stage=(4, 8, 16),
    strides=((1, 1), (1, 2), (2, 2)),
    kernel_sizes=((1, 3), (3, 3), (3, 3)),
    convs_per_stage=(1, 2, 3),
    convs_per_decoder_stage=(5, 4),
)


def settled(config, planned=PLANNED):
    unet = settled_unet(planned, config)
    return settled_network(unet, planned, config, patch_size=(8, 16), deep_supervision=True)


def test_nothing_asked_for_leaves_the_plan():
    assert settled(NetworkConfig()) == PLANNED
    assert settled(NetworkConfig(checkpointing=True)) == PLANNED
    batch = replace(PLANNED, norm="batch", dropout=0.5)
    assert settled(NetworkConfig(), batch) == batch


def test_values_take_the_place_of_the_plans():
    config = NetworkConfig(norm="batch", dropout=0.1, kind="residual_encoder")
    assert settled(config) == replace(PLANNED, norm="batch", dropout=0.1, kind="residual_encoder")
    batch = replace(PLANNED, norm="batch", dropout=0.5)
    assert settled(NetworkConfig(norm="instance", dropout=0.0), batch) == PLANNED


def test_the_first_stages_are_kept_with_the_decoder_above_them():
    assert settled(NetworkConfig(stages=2)) == NetworkPlan(
        features_per_stage=(4, 8),
        strides=((1, 1), (1, 2)),
        kernel_sizes=((1, 3), (3, 3)),
        convs_per_stage=(1, 2),
        convs_per_decoder_stage=(4,),
    )
    assert settled(NetworkConfig(stages=3)) == PLANNED


def test_lists_written_out_may_be_longer_than_the_plans():
    config = NetworkConfig(
        features_per_stage=(2, 2, 2, 2),
        strides=((1, 1), (2, 2), (1, 2), (1, 2)),
        kernel_sizes=((3, 3),) * 4,
        convs_per_stage=(1,) * 4,
        convs_per_decoder_stage=(1,) * 3,
    )
    assert settled(config).strides[1] == (2, 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (NetworkConfig(stages=4), "4 stages cannot be kept of the 3 that are planned"),
        (NetworkConfig(features_per_stage=(4, 8)), "strides: must have 2 entries for 2 stages"),
        (NetworkConfig(strides=((1, 1), (2,), (2, 2))), "strides: every entry must have 2 axes"),
        (NetworkConfig(strides=((1, 1), (0, 2), (2, 2))), "strides: must be positive, got 0"),
    ],
)
def test_what_is_no_unet_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        settled(config)


def test_a_class_is_recorded_with_what_it_is_called_with():
    network = settled(NetworkConfig(class_="a.b:C", arguments={"width": 3}))
    assert network.class_ == "a.b:C"
    assert network.arguments == {"width": 3, "patch_size": [8, 16], "deep_supervision": True}
    assert network.strides == PLANNED.strides


def test_a_class_that_only_the_plan_names_is_refused():
    foreign = replace(PLANNED, class_="a.b:C", arguments={"width": 3})
    with pytest.raises(UserError, match="the plan names a class") as caught:
        settled(NetworkConfig(), foreign)
    assert "--set network.class=a.b:C" in caught.value.fix
    with pytest.raises(UserError, match="the plan names a class"):
        settled(NetworkConfig(class_="a.b:D"), foreign)
    named = settled(NetworkConfig(class_="a.b:C", arguments={"depth": 2}), foreign)
    assert named.arguments["width"] == 3
    assert named.arguments["depth"] == 2
