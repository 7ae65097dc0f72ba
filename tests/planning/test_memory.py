from segkit.planning.memory import feature_map_elements, features_per_stage
from segkit.planning.plan import NetworkPlan


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
