"""The sliding window against direct application and brute-force loops."""

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from segkit.errors import UserError
from segkit.inference.engines import ENGINES
from segkit.inference.predictor import (
    PredictionSettings,
    default_batch_size,
    predict_logits,
)
from segkit.inference.tiling import tile_starts

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Acts on every voxel by itself, so that tiles must not show: (x, a x + b)."""

    def __init__(self, a: float = 2.0, b: float = 1.0):
        super().__init__()
        self.a, self.b, self.batches = a, b, []
        self.eval()

    def forward(self, x):
        self.batches.append(tuple(x.shape))
        return torch.cat([x[:, :1], self.a * x[:, :1] + self.b], dim=1)


def conv(ndim: int = 3, *, even: bool = False, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layer = (nn.Conv2d, nn.Conv3d)[ndim - 2](1, 2, 3, padding=1)
    if even:
        axes = tuple(range(2, 2 + ndim))
        flips = [f for n in range(ndim + 1) for f in itertools.combinations(axes, n)]
        layer.weight.data = sum(layer.weight.data.flip(flip) for flip in flips)
    return layer.eval()


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def oracle(network, image, patch, step, mirror_axes=()):
    """Blend tiles the plain way: sum of weighted logits over sum of weights (3D, fp64)."""
    gaussian = 1.0
    for axis, edge in enumerate(patch):
        g = np.exp(-0.5 * ((np.arange(edge) - edge // 2) / (edge / 8)) ** 2)
        gaussian = gaussian * g.reshape([-1 if a == axis else 1 for a in range(3)])
    flips = [
        flip for n in range(len(mirror_axes) + 1) for flip in itertools.combinations(mirror_axes, n)
    ]
    total, logits = np.zeros(image.shape[1:]), None
    starts = [tile_starts(s, p, step) for s, p in zip(image.shape[1:], patch, strict=True)]
    for corner in itertools.product(*starts):
        where = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        tile = torch.from_numpy(image[(slice(None), *where)])[None]
        mean = 0.0
        for flip in flips:
            axes = [a + 2 for a in flip]
            mean = mean + network(tile.flip(axes)).flip(axes)[0].detach().double() / len(flips)
        logits = np.zeros((len(mean), *image.shape[1:])) if logits is None else logits
        logits[(slice(None), *where)] += mean.numpy() * gaussian
        total[where] += gaussian
    return logits / total


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("step", [0.3, 0.5, 1.0])
def test_a_pointwise_network_shows_no_tiles(step, batch_size):
    image = noise(1, 9, 12, 10)
    settings = PredictionSettings(step=step, batch_size=batch_size)
    logits = predict_logits([Pointwise()], image, (4, 6, 8), settings, CPU)
    assert logits.dtype == torch.float32
    expected = np.concatenate([image, 2 * image + 1])
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


def test_integers_small_enough_come_back_as_they_were():
    image = np.arange(6 * 4 * 4, dtype=np.float32).reshape(1, 6, 4, 4)
    logits = predict_logits([Pointwise()], image, (4, 4, 4), PredictionSettings(), CPU)
    assert (logits[0].round().numpy() == image[0]).all()


@pytest.mark.parametrize("mirror_axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_tiles_and_flips_equal_the_plain_loop(mirror_axes):
    image, network = noise(1, 9, 7, 11), conv()
    settings = PredictionSettings(step=0.5, mirror_axes=mirror_axes, batch_size=3)
    logits = predict_logits([network], image, (4, 6, 8), settings, CPU)
    expected = oracle(network, image, (4, 6, 8), 0.5, mirror_axes)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


def test_flips_change_nothing_for_an_even_kernel_and_something_for_another():
    image = noise(1, 8, 8, 8)
    plain = PredictionSettings()
    mirrored = PredictionSettings(mirror_axes=(0, 1, 2))

    def change(network):
        one, many = (predict_logits([network], image, (8, 8, 8), s, CPU) for s in (plain, mirrored))
        return float((one - many).abs().max())

    assert change(conv(even=True)) < 1e-5
    assert change(conv()) > 0.1


def test_flips_and_tiles_share_batches():
    network = Pointwise()
    settings = PredictionSettings(mirror_axes=(0, 1), batch_size=5)
    predict_logits([network], noise(1, 6, 4, 4), (4, 4, 4), settings, CPU)
    # 8 passes, at most 5 at once: evenly.
    assert network.batches == [(4, 1, 4, 4, 4)] * 2


def test_batches_are_even():
    network, image = Pointwise(), noise(1, 4, 4, 14)
    predict_logits([network], image, (4, 4, 2), PredictionSettings(step=1.0, batch_size=3), CPU)
    assert [size for size, *_ in network.batches] == [2, 2, 3]


def test_by_default_small_patches_fill_a_batch_and_large_ones_go_alone():
    assert [default_batch_size(patch, CPU) for patch in [(1, 64, 64), (64, 64, 96)]] == [80, 1]
    assert default_batch_size((1, 64, 64), CPU, "openvino") == 1
    assert default_batch_size((64, 64, 64), torch.device("cuda")) > 1


@pytest.mark.parametrize("mirror_axes", [(), (0, 1)])
def test_2d_networks_go_slice_by_slice(mirror_axes):
    image, network = noise(1, 3, 9, 8), conv(2)
    settings = PredictionSettings(mirror_axes=mirror_axes, batch_size=4)
    logits = predict_logits([network], image, (6, 8), settings, CPU)

    class Sliced(nn.Module):
        def forward(self, x):
            return network(x[:, :, 0])[:, :, None]

    axes = tuple(axis + 1 for axis in mirror_axes)
    expected = [oracle(Sliced(), image[:, z : z + 1], (1, 6, 8), 0.5, axes) for z in range(3)]
    assert logits.shape == (2, 3, 9, 8)
    np.testing.assert_allclose(logits.numpy(), np.concatenate(expected, axis=1), atol=1e-5)


def test_folds_are_averaged_as_logits():
    image, folds = noise(1, 6, 8, 5), [conv(seed=seed) for seed in range(3)]
    settings = PredictionSettings(mirror_axes=(1,))
    together = predict_logits(folds, image, (4, 4, 4), settings, CPU)
    alone = [predict_logits([fold], image, (4, 4, 4), settings, CPU) for fold in folds]
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


def test_an_image_smaller_than_the_patch_is_padded_with_zeros_and_cut_back():
    image, network = noise(1, 3, 9, 4), conv()
    logits = predict_logits([network], image, (8, 8, 8), PredictionSettings(), CPU)
    padded = np.pad(image, ((0, 0), (2, 3), (0, 0), (2, 2)))
    expected = oracle(network, padded, (8, 8, 8), 0.5)[:, 2:5, :, 2:6]
    assert logits.shape == (2, 3, 9, 4)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


def test_wholly_invalid_tiles_are_not_predicted_and_leave_zeros():
    network, image = Pointwise(), np.ones((1, 12, 4, 4), dtype=np.float32)
    invalid = np.zeros((12, 4, 4), dtype=bool)
    invalid[:8] = True
    settings = PredictionSettings(step=1.0, batch_size=1)
    logits = predict_logits([network], image, (4, 4, 4), settings, CPU, invalid)
    assert len(network.batches) == 1
    assert (logits[:, :8] == 0).all()
    assert (logits[1, 8:] == 3).all()


def test_an_image_without_a_valid_voxel_still_gives_all_channels():
    network, image = Pointwise(), np.zeros((1, 3, 12, 6), dtype=np.float32)
    invalid = np.ones((3, 12, 6), dtype=bool)
    logits = predict_logits([network], image, (4, 4, 4), PredictionSettings(), CPU, invalid)
    assert logits.shape == (2, 3, 12, 6)
    assert len(network.batches) == 1


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_and_tensors_are_taken():
    image = noise(1, 4, 4, 4)
    image.flags.writeable = False
    invalid = np.zeros((4, 4, 4), dtype=bool)
    invalid.flags.writeable = False
    for given in (image, torch.tensor(np.array(image))):
        logits = predict_logits([Pointwise()], given, (4, 4, 4), PredictionSettings(), CPU, invalid)
        np.testing.assert_allclose(logits[0], image[0], atol=1e-6)


class FailsOnce(Pointwise):
    """Runs out of memory as often as told."""

    def __init__(self, failures: int):
        super().__init__()
        self.failures = failures

    def forward(self, x):
        if self.failures:
            self.failures -= 1
            raise torch.cuda.OutOfMemoryError("no memory")
        return super().forward(x)


def test_out_of_memory_falls_back_to_main_memory_and_says_so(caplog):
    image = noise(1, 4, 4, 4)
    with caplog.at_level(logging.WARNING, logger="segkit"):
        logits = predict_logits([FailsOnce(1)], image, (4, 4, 4), PredictionSettings(), CPU)
    assert [record.message for record in caplog.records] == [
        "cpu has too little memory; trying smaller batches, then logits in main memory"
    ]
    np.testing.assert_allclose(logits[0], image[0], atol=1e-6)


class FailsAbove(Pointwise):
    """Runs out of memory above a batch size."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.tried = most, []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("no memory")
        return super().forward(x)


@pytest.mark.parametrize(("most", "tried"), [(9, [9]), (4, [9, 3, 3, 3]), (2, [9, 3, 1] + [2] * 4)])
def test_batches_are_halved_until_they_fit(caplog, most, tried):
    network, image = FailsAbove(most), noise(1, 4, 12, 12)
    settings = PredictionSettings(step=1.0, batch_size=9)
    with caplog.at_level(logging.WARNING, logger="segkit"):
        logits = predict_logits([network], image, (4, 4, 4), settings, CPU)
    assert network.tried == tried
    assert len(caplog.records) == (most < 9)
    np.testing.assert_allclose(logits[0], image[0], atol=1e-6)


def test_out_of_memory_again_is_told_to_the_user():
    with pytest.raises(UserError, match="too little memory"):
        predict_logits([FailsAbove(0)], noise(1, 4, 4, 4), (4, 4, 4), PredictionSettings(), CPU)


def test_other_errors_are_not_taken_for_lack_of_memory():
    class Broken(Pointwise):
        def forward(self, x):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        predict_logits([Broken()], noise(1, 4, 4, 4), (4, 4, 4), PredictionSettings(), CPU)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="NaN or infinite"):
        predict_logits(
            [Pointwise(b=float("inf"))], noise(1, 4, 4, 4), (4, 4, 4), PredictionSettings(), CPU
        )


@pytest.mark.parametrize("step", [0.0, -0.5, 1.01, float("nan")])
def test_steps_outside_the_range_are_refused(step):
    with pytest.raises(UserError, match="step must lie in"):
        PredictionSettings(step=step)


def test_other_bad_settings_are_refused():
    with pytest.raises(UserError, match="batch size"):
        PredictionSettings(batch_size=0)
    settings = PredictionSettings(mirror_axes=(2,))
    with pytest.raises(UserError, match="2D patch"):
        predict_logits([Pointwise()], noise(1, 1, 4, 4), (4, 4), settings, CPU)


@pytest.mark.parametrize("own_threads", [False, True])
def test_torch_keeps_out_of_the_way_of_engines_with_threads_of_their_own(monkeypatch, own_threads):
    engine = replace(ENGINES["torch"], own_threads=own_threads)
    monkeypatch.setitem(ENGINES, "fake", engine)
    seen = []

    def network(batch):
        seen.append(torch.get_num_threads())
        return batch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        predict_logits(
            [network], noise(1, 4, 4, 4), (4, 4, 4), PredictionSettings(engine="fake"), CPU
        )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1 if own_threads else 3]
