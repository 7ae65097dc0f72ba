"""Test-time mirroring: an equivariant network predicts the same in every mirror."""

import pytest
import torch
from torch import nn

from segkit.errors import UserError
from segkit.inference.flips import Flip, SideSwap, all_flips
from segkit.inference.predictor import PredictionSettings, predict_logits

CPU = torch.device("cpu")


class Sided(nn.Module):
    """Outputs 1 and 2 are each other's mirror image along one axis; 0 and 3 are their own.

    In a cascade, input channels 1 and 2 are those of the previous stage.
    """

    def __init__(self, axis: int, *, cascade: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        channels = 3 if cascade else 1
        kernel = torch.randn(4, channels, 3, 3, 3, generator=generator)
        for other in {2, 3, 4} - {axis + 2}:
            kernel = kernel + kernel.flip(other)
        mirrored = kernel.flip(axis + 2)
        if cascade:
            mirrored = mirrored[:, [0, 2, 1]]
        kernel[2] = mirrored[1]
        kernel[0], kernel[3] = kernel[0] + mirrored[0], kernel[3] + mirrored[3]
        self.kernel = kernel

    def forward(self, x):
        return nn.functional.conv3d(x, self.kernel, padding=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cascade", [False, True])
def test_logits_of_paired_outputs_change_places(axis, cascade):
    network = Sided(axis, cascade=cascade).eval()
    channels = 3 if cascade else 1
    image = torch.randn(channels, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = (0, 2, 1) if cascade else (0,)
    swap = SideSwap(axis=axis, inputs=inputs, outputs=(0, 2, 1, 3))
    expected = network(image[None])[0]

    def predicted(swap):
        settings = PredictionSettings(mirror_axes=(0, 1, 2), swap=swap)
        return predict_logits([network], image, (8, 8, 8), settings, CPU)

    torch.testing.assert_close(predicted(swap), expected, atol=1e-4, rtol=1e-4)
    assert (predicted(None) - expected).abs().max() > 0.1


def test_planes_count_their_axes_from_the_last():
    swap = SideSwap(axis=1, inputs=(0,), outputs=(1, 0))
    flips = all_flips((0, 1), 2, swap)
    assert [flip.axes for flip in flips] == [(), (2,), (3,), (2, 3)]
    assert [flip.swap is not None for flip in flips] == [False, False, True, True]


def test_what_is_mirrored_is_undone():
    swap = SideSwap(axis=2, inputs=(1, 0), outputs=(0, 2, 1))
    flip = Flip(axes=(1, 3), swap=swap)
    tile = torch.arange(2 * 24.0).view(2, 2, 3, 4)
    assert torch.equal(flip.mirrored(flip.mirrored(tile)), tile)
    assert torch.equal(flip.mirrored(tile)[0], tile[1].flip((0, 2)))
    logits = torch.arange(3 * 24.0).view(3, 2, 3, 4)
    assert torch.equal(flip.undone(flip.undone(logits)), logits)
    assert torch.equal(flip.undone(logits)[1], logits[2].flip((0, 2)))


def test_axes_that_a_patch_lacks_are_refused():
    with pytest.raises(UserError, match=r"cannot mirror axes \[2\] of a 2D patch"):
        all_flips((2,), 2)
