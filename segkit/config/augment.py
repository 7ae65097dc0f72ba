"""How patches are varied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from segkit.config.checks import check

Range = tuple[float, float]
Counts = tuple[int, int]
Interpolation = Literal["linear", "nearest"]
IntensityStep = Literal[
    "noise",
    "blur",
    "brightness",
    "brightness_shift",
    "contrast",
    "low_resolution",
    "gamma_inverted",
    "gamma",
    "blank",
    "brightness_gradient",
    "local_gamma",
    "sharpen",
]
"""What changes intensities, in the usual order; ``blur`` stands for the median filter too."""
INTENSITY_STEPS: tuple[IntensityStep, ...] = get_args(IntensityStep)
Place = Literal["after_spatial", "after_intensity", "after_mirror"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtraTransform:
    """A transform from outside, named by its import path."""

    path: str = field(metadata={"key": "class"})
    """``package.module:Name`` or ``file.py:Name`` of a class that ``arguments`` make a transform
    of, or of a function that takes them. What is called has batchgenerators' convention: keywords
    ``data`` (b, c, z, y, x) and ``seg`` (b, 1, z, y, x) as numpy arrays in, a dictionary out."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    p: float = 1.0
    """Per sample; what the transform draws by itself comes on top."""
    place: Place = "after_intensity"

    def __post_init__(self) -> None:
        check(0 <= self.p <= 1, f"p of {self.path} must lie in [0, 1], got {self.p}")
        named = self.path.partition(":")
        what = f"class must be package.module:Name or file.py:Name, got {self.path!r}"
        check(all(named), what)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """nnU-Net's augmentations, and more that are off until their ``p_`` is above 0.

    ``p_NAME`` is a probability per sample, ``p_NAME_channel`` that of each channel of a sample
    which is chosen. Ranges are uniform, sizes in voxels unless said otherwise.
    """

    # Where things are.
    p_rotation: float = 0.2
    p_rotation_axis: float = 1.0
    """Chance of every axis of a rotated sample to be one it is rotated about."""
    rotation_degrees: float | None = None
    """Largest angle; null takes nnU-Net's (30 in 3D; 180 or 15 in 2D)."""
    p_scaling: float = 0.2
    scaling: Range = (0.7, 1.4)
    """Above 1 objects become smaller."""
    scaling_per_axis: bool = False
    """Draw a factor for every axis, in place of one for all."""
    p_elastic: float = 0.0
    elastic_scale: Range = (0.05, 0.25)
    """How far displacements are alike: deviation of the Gaussian that smooths them, as a share of
    the patch."""
    elastic_strength: Range = (0.125, 0.5)
    """Largest displacement as a share of that deviation; from about 1 on, tissue folds."""
    dummy_2d: bool | Literal["auto"] = "auto"
    """Rotate, scale and deform within the slices along axis 0 only; ``auto``: where they are thick
    (nnU-Net's rule). Nothing to planes."""
    image_interpolation: Interpolation = "linear"
    label_interpolation: Interpolation = "linear"
    """``linear``: the label with the largest linear weight; ``nearest``: of the nearest voxel."""
    p_quarter_turn: float = 0.0
    """By 0, 90, 180 or 270 degrees, between two axes along which the patch is equally long."""
    p_transpose: float = 0.0
    """Permute the axes along which the patch is equally long."""
    mirror: bool | tuple[int, ...] = True
    """Flip axes with probability 1/2 each; prediction then averages over flips too. true: every
    axis where that leaves left and right what they are; or a list of axes of the patch."""

    # What they look like.
    p_noise: float = 0.1
    noise_std: Range = (0.0, 0.1)
    p_blur: float = 0.2
    p_blur_channel: float = 0.5
    blur_sigma: Range = (0.5, 1.0)
    blur_per_axis: bool = True
    """Draw a width for every axis, in place of one for all."""
    p_median: float = 0.0
    """Median filter, for samples that are not blurred: ``p_blur + p_median`` is at most 1."""
    p_median_channel: float = 0.5
    median_size: Counts = (2, 7)
    """Smallest and largest edge of the window. Large ones take long in 3D."""
    p_brightness: float = 0.15
    brightness: Range = (0.75, 1.25)
    """Factor; below and above 1 with equal chance, as for contrast and gamma."""
    p_brightness_shift: float = 0.0
    p_brightness_shift_channel: float = 0.5
    brightness_shift_std: float = 0.5
    """A number is added that is normal around 0."""
    p_contrast: float = 0.15
    """Stretch about the mean, clamped to the range there was."""
    p_contrast_unclamped: float = 0.0
    """The same without the clamp, for other samples: both together are at most 1."""
    p_contrast_channel: float = 1.0
    contrast: Range = (0.75, 1.25)
    p_low_resolution: float = 0.25
    p_low_resolution_channel: float = 0.5
    low_resolution: Range = (0.5, 1.0)
    p_gamma_inverted: float = 0.1
    p_gamma: float = 0.3
    gamma: Range = (0.7, 1.5)
    p_blank: float = 0.0
    """Boxes filled with their mean."""
    p_blank_channel: float = 0.5
    blank_size: Range = (0.1, 1 / 3)
    """Edges as shares of the patch; the lower one included, the upper one not."""
    blank_count: Counts = (1, 4)
    p_brightness_gradient: float = 0.0
    """A wide Gaussian is added."""
    p_brightness_gradient_channel: float = 0.5
    brightness_gradient: Range = (1.0, 5.0)
    """Height of the Gaussian, up or down with equal chance."""
    p_local_gamma: float = 0.0
    """Gamma, faded in by a wide Gaussian."""
    p_local_gamma_channel: float = 0.5
    local_gamma_low: Range = (0.01, 0.8)
    local_gamma_high: Range = (1.5, 4.0)
    """Exponents are from the one range or the other with equal chance."""
    local_centre: Range = (-0.5, 1.5)
    """Where such Gaussians have their centre, in shares of the patch: 0 to 1 lies within."""
    local_extent: Range = (1 / 6, 1.0)
    """Their deviation along every axis, in shares of the patch; its logarithm is uniform."""
    p_sharpen: float = 0.0
    p_sharpen_channel: float = 0.5
    sharpen: Range = (0.1, 1.0)
    """Share of the Laplacian that is added."""
    p_channel_dropout: float = 0.0
    """Chance of every channel to be set to 0, as if it were missing; never of all of a sample.
    Such models predict cases that lack channels."""

    order: tuple[IntensityStep, ...] = ()
    """Intensity transforms in the order they are applied in; one named twice is applied twice.
    Those left out follow in the usual order (above)."""
    extra: tuple[ExtraTransform, ...] = ()

    @property
    def intensity_order(self) -> tuple[IntensityStep, ...]:
        """The intensity transforms, as ``order`` has them."""
        return (*self.order, *(name for name in INTENSITY_STEPS if name not in self.order))

    def __post_init__(self) -> None:
        for own in dataclasses.fields(self):
            value = getattr(self, own.name)
            if own.name.startswith("p_"):
                check(0 <= value <= 1, f"{own.name} must lie in [0, 1], got {value}")
            elif own.type in ("Range", "Counts"):
                check(value[0] <= value[1], f"{own.name} must be [low, high], got {list(value)}")
                lowest = _LOWEST.get(own.name)
                if lowest is not None:
                    what = f"{own.name} must be {lowest:g} or more, got {value[0]:g}"
                    check(value[0] >= lowest, what)
        for name in _POSITIVE:
            low = getattr(self, name)[0]
            check(low > 0, f"{name} must be positive, got {low}")
        for name in ("low_resolution", "blank_size"):
            high = getattr(self, name)[1]
            check(high <= 1, f"{name} must not exceed 1, got {high}")
        self._check_pairs()
        angle, std = self.rotation_degrees, self.brightness_shift_std
        if angle is not None:
            check(0 <= angle <= 180, f"rotation_degrees must lie in [0, 180], got {angle}")
        check(std >= 0, f"brightness_shift_std must not be negative, got {std}")
        axes = () if isinstance(self.mirror, bool) else self.mirror
        fits = len(set(axes)) == len(axes) and all(axis in range(3) for axis in axes)
        check(fits, f"mirror must be true, false or distinct axes from 0 on, got {list(axes)}")

    def _check_pairs(self) -> None:
        """Check the probabilities of transforms of which a sample gets one only."""
        for pair in (("p_blur", "p_median"), ("p_contrast", "p_contrast_unclamped")):
            total = sum(getattr(self, name) for name in pair)
            check(total <= 1, f"{' and '.join(pair)} exclude each other, and together are {total}")


_POSITIVE = (
    *("scaling", "blur_sigma", "low_resolution", "gamma", "elastic_scale", "blank_size"),
    *("local_gamma_low", "local_gamma_high", "local_extent"),
)
_LOWEST = {"noise_std": 0, "elastic_strength": 0, "median_size": 1, "blank_count": 0, "sharpen": 0}
