"""Which network is trained."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from segkit.config.checks import check
from segkit.types import NetworkKind, Norm

Axes = tuple[int, ...]

GIVEN = ("in_channels", "out_channels", "patch_size", "deep_supervision")
"""What a class is always called with."""
_IMPORT_PATH = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Changes to the planned U-Net, or a class in its place; null takes the plan's value."""

    kind: NetworkKind | None = None
    """plain or residual_encoder."""
    stages: int | None = None
    """Keep this many stages of the plan, from the highest resolution."""
    features_per_stage: tuple[int, ...] | None = None
    strides: tuple[Axes, ...] | None = None
    kernel_sizes: tuple[Axes, ...] | None = None
    convs_per_stage: tuple[int, ...] | None = None
    """Convolutions, or residual blocks, of every stage of the encoder."""
    convs_per_decoder_stage: tuple[int, ...] | None = None
    """Deepest first."""
    norm: Norm | None = None
    dropout: float | None = None
    """Chance that a channel is dropped in training, between convolution and norm."""
    checkpointing: bool = False
    """Compute activations twice in place of keeping them: less memory, about a third more time."""
    class_: str | None = field(default=None, metadata={"key": "class"})
    """Your own network, importable as package.module:Class."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Plain values the class is called with, beside in_channels, out_channels, patch_size and
    deep_supervision."""

    def __post_init__(self) -> None:
        stages, dropout = self.stages, self.dropout
        check(stages is None or stages >= 2, f"stages must be at least 2, got {stages}")
        fits = dropout is None or 0 <= dropout < 1
        check(fits, f"dropout must lie in [0, 1), got {dropout}")
        for name in ("features_per_stage", "convs_per_stage", "convs_per_decoder_stage"):
            values = getattr(self, name) or (1,)
            check(min(values) >= 1, f"{name} must be positive, got {list(values)}")
        self._check_class()

    def _check_class(self) -> None:
        if self.class_ is None:
            check(not self.arguments, "arguments have no effect without a class")
            return
        fits = re.fullmatch(_IMPORT_PATH, self.class_)
        check(bool(fits), f"class must be package.module:Class, got {self.class_!r}")
        for name in changes_of_unet(self):
            check(False, f"{name} has no effect on a class; give it to the class in arguments")
        for name in self.arguments:
            check(name not in GIVEN, f"arguments must not hold {name}, which the class always gets")
        check(_is_plain(self.arguments), "arguments must be numbers, words, lists and mappings")


def changes_of_unet(config: NetworkConfig) -> dict[str, Any]:
    """Return what is not left to the plan, by name; nothing of a class."""
    given = {name: getattr(config, name) for name in config.__dataclass_fields__}
    own = ("class_", "arguments")
    return {n: x for n, x in given.items() if n not in own and x is not None and x is not False}


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a value as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(x) for key, x in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))
