import pytest

from segkit.planning.memory import feature_map_elements, features_per_stage
from segkit.planning.patch import network_of
from segkit.planning.plan import NetworkPlan
from segkit.planning.presets import PLANNERS
from segkit.planning.topology import plan_topology


@pytest.mark.parametrize(
    ("planner", "patch", "expected"),
    [
        ("default", (128, 128, 128), 452_796_416),
        ("default", (512, 512), 82_886_656),
        ("resenc_m", (128, 128, 128), 557_420_544),
        ("resenc_m", (512, 512), 129_703_936),
    ],
)
def test_reference_networks(planner, patch, expected):
    network = network_of(plan_topology((1.0,) * len(patch), patch), PLANNERS[planner])
    assert feature_map_elements(network, patch, heads=3) == expected


def small(kind, features, strides, convs):
    return NetworkPlan(
        kind=kind,
        features_per_stage=features,
        strides=strides,
        kernel_sizes=((3, 3),) * len(strides),
        convs_per_stage=convs,
        convs_per_decoder_stage=(1,) * (len(strides) - 1),
    )


def test_plain_by_hand():
    network = small("plain", (2, 4), ((1, 1), (2, 2)), (2, 1))
    # encoder 2 x 2 x 64 + 4 x 16; decoder (transposed + 1) x 2 x 64; head 3 x 64
    assert feature_map_elements(network, (8, 8), heads=3) == 256 + 64 + 256 + 192


def test_residual_by_hand():
    network = small("residual_encoder", (2, 4, 4), ((1, 1), (2, 2), (1, 1)), (1, 2, 1))
    stem, first, second = 2 * 64, 2 * 2 * 64, (4 + 1) * 4 * 16
    third = 2 * 4 * 16  # neither stride nor channels change: no projection
    decoder = 2 * 4 * 16 + 2 * 2 * 64
    expected = stem + first + second + third + decoder + 3 * 64
    assert feature_map_elements(network, (8, 8), heads=3) == expected


def test_features_double_up_to_the_cap():
    assert features_per_stage(6, 3) == (32, 64, 128, 256, 320, 320)
    assert features_per_stage(6, 2) == (32, 64, 128, 256, 512, 512)
