"""What a run is made of, built outside the loop and handed in; batches on their way to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkit.config import InvalidVoxels
from segkit.dataset.labels import LabelSchema
from segkit.precision import Precision
from segkit.training.averaging import WeightAverage
from segkit.training.optim import Stepper
from segkit.training.patches import PatchLoader
from segkit.training.troubles import Troubles


class Batch(NamedTuple):
    """Patches on the device."""

    image: Tensor
    """(B, C, *S) float32."""
    seg: Tensor
    """(B, 1 or S, *S)."""
    cases: tuple[str, ...] = ()
    """The case of every patch."""


Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
Arrange = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def as_it_is(image: Tensor, seg: Tensor) -> tuple[Tensor, Tensor]:
    """Leave a batch alone."""
    return image, seg


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """Everything the loop uses."""

    network: nn.Module
    compiled: Callable[[Tensor], Any] | None = None
    """The same network, sharing its weights, for training steps."""
    stepper: Stepper
    average: WeightAverage | None = None
    """Follows the weights of the network, where the recipe wants it."""
    loss: Callable[[Tensor | list[Tensor], Tensor], Tensor]
    schema: LabelSchema
    invalid_voxels: InvalidVoxels | None = None
    """How the loss takes invalid voxels, and so the online Dice; None leaves them out."""
    augment: Augment
    arrange: Arrange = as_it_is
    """Makes of a validation batch what the network is given, as ``augment`` does in training."""
    train_loader: PatchLoader
    validation_loader: PatchLoader
    device: torch.device
    precision: Precision
    troubles: Troubles = field(default_factory=Troubles)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and saved: the average where there is one."""
        return self.network if self.average is None else self.average.network

    def forward(self, image: Tensor, *, exact: bool = False) -> Any:
        """Run the network that is trained; ``exact``: in float32, whatever the precision."""
        if exact:
            return self.precision.exact.forward(self.network, image)
        network = self.network if self.compiled is None else self.compiled
        return self.precision.forward(network, image)


def load_batch(loader: PatchLoader, device: torch.device) -> Batch:
    """Draw the next patches and send them to the device, without waiting for them to arrive."""
    drawn = loader.generate_train_batch()
    image, seg = torch.from_numpy(drawn["image"]), torch.from_numpy(drawn["seg"])
    if device.type == "cuda":
        image, seg = image.pin_memory(), seg.pin_memory()
    return Batch(
        image=image.to(device, non_blocking=True),
        seg=seg.to(device, non_blocking=True),
        cases=tuple(drawn["cases"]),
    )
