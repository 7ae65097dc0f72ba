"""What folds are balanced by besides the number of cases: which labels a case has, and how much."""

from __future__ import annotations

import math

import numpy as np

from segkit.dataset.dealing import Traits
from segkit.planning.fingerprint import Fingerprint

_WEIGHT_OF_VOLUME = 0.2
"""Against presence: a fold without a class measures nothing of it, one with little of it less."""


def label_traits(fingerprint: Fingerprint) -> Traits:
    """Return presence (0 or 1) and volume (mm^3) of every class or structure.

    Cases are in the order of the fingerprint. A class that all cases have, or none, has no
    presence to balance.
    """
    volumes = np.array(
        [np.multiply(case.class_voxels, math.prod(case.spacing_mm)) for case in fingerprint.cases],
        dtype=np.float64,
    ).reshape(len(fingerprint.cases), -1)
    present = (volumes > 0).astype(np.float64)
    varying = np.ptp(present, axis=0) > 0
    sizes = volumes[:, volumes.any(axis=0)]
    weights = np.repeat([1.0, _WEIGHT_OF_VOLUME], [varying.sum(), sizes.shape[1]])
    return Traits(values=np.hstack([present[:, varying], sizes]), weights=weights)
