"""Images that occur twice, told by their voxels, however their files are named or compressed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


def image_hashes(image_czyx: np.ndarray) -> tuple[str, ...]:
    """Hash every channel of an image, (C, Z, Y, X); constant ones show nothing and are left out."""
    return tuple(channel_hash(channel) for channel in image_czyx if channel.min() != channel.max())


def channel_hash(channel_zyx: np.ndarray) -> str:
    """Hash voxels and shape, so that a copy is known again however its file is compressed."""
    digest = hashlib.blake2b(repr(channel_zyx.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(channel_zyx).data)
    return digest.hexdigest()


def same_images(hashes: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the sets of cases that share an image, each set once.

    A channel that all cases share says nothing where each has others besides (a template, say).

    Args:
        hashes: Case -> :func:`image_hashes` of it.
    """
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for case, digests in hashes.items():
        for digest in dict.fromkeys(digests):
            owners[digest].append(case)
    several = all(len(set(digests)) > 1 for digests in hashes.values())
    common = len(hashes) if several else len(hashes) + 1
    shared = (tuple(cases) for cases in owners.values() if 1 < len(cases) < common)
    return list(dict.fromkeys(shared))
