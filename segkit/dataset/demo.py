"""A small synthetic dataset in nnU-Net's raw layout, to try the whole pipeline in minutes.

Two MR-like channels of a head-like ellipsoid that holds one large organ and up to three lesions
in or beside it. Contrast, bias field and noise differ from case to case, and a decoy is bright in
one channel only, so that no threshold finds the structures; a small U-Net does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from segkit.dataset.image_io import sitk_io
from segkit.errors import UserError
from segkit.files import atomic_folder, write_json
from segkit.types import Geometry

CHANNELS = ("MR_T1", "MR_T2")
LABELS = {"background": 0, "organ": 1, "lesion": 2}
ENDING = ".nii.gz"
TEST_CASES = 4
MIN_CASES = 2

INTENSITIES = {
    "tissue": (400.0, 300.0),
    "organ": (580.0, 440.0),
    "lesion": (400.0, 720.0),
    "decoy": (720.0, 320.0),
}
"""Mean intensity in (T1, T2) before contrast, bias and noise."""


def make_demo_dataset(folder: Path, *, cases: int = 16, seed: int = 0) -> None:
    """Write a dataset of ``cases`` training and four test cases.

    ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs`` and ``labelsTs`` appear together or
    not at all. One training and one test case are without lesion. Equal seeds give equal arrays;
    every case has a random stream of its own.

    Raises:
        UserError: the folder exists and is not empty, or fewer than two cases were asked for.
    """
    if cases < MIN_CASES:
        fix = f"ask for at least {MIN_CASES}; five folds need 5"
        raise UserError(f"{cases} cases are too few for a dataset", where="--cases", fix=fix)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fix = "choose another folder, or remove this one"
        raise UserError("the folder exists and is not empty", where=folder, fix=fix)
    with atomic_folder(folder) as draft:
        _write_dataset(draft, cases, seed)


def _write_dataset(folder: Path, cases: int, seed: int) -> None:
    for i in range(cases + TEST_CASES):
        part = "Tr" if i < cases else "Ts"
        without_lesion = i in (min(3, cases - 1), cases + 1)
        image, labels, geometry = make_case(
            np.random.default_rng([seed, i]), lesions=not without_lesion
        )
        name = f"demo_{i + 1:03d}"
        for c, channel in enumerate(image):
            sitk_io.write(folder / f"images{part}" / f"{name}_{c:04d}{ENDING}", channel, geometry)
        sitk_io.write(folder / f"labels{part}" / f"{name}{ENDING}", labels, geometry)
    content = {
        "name": "segkit demo",
        "description": "Synthetic two-channel volumes with an organ and lesions",
        "channel_names": {str(c): name for c, name in enumerate(CHANNELS)},
        "labels": LABELS,
        "numTraining": cases,
        "file_ending": ENDING,
    }
    write_json(folder / "dataset.json", content)


def make_case(
    rng: np.random.Generator, *, lesions: bool
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Make one case.

    Returns:
        The image (2, Z, Y, X) int16, exactly zero in both channels outside the tissue; the label
        map (Z, Y, X) uint8; the geometry.
    """
    shape = (int(rng.integers(16, 21)), *(int(n) for n in rng.integers(56, 73, size=2)))
    geometry = _geometry(rng)
    position = _positions_mm(shape, geometry.spacing_mm)
    half = np.array(shape) * geometry.spacing_mm / 2
    tissue = _blob(position, np.zeros(3), 0.92 * half, rng) < 1
    centre = rng.uniform(-0.15, 0.15, 3) * half
    radii = rng.uniform(0.38, 0.48, 3) * half
    organ = (_blob(position, centre, radii, rng) < 1) & tissue
    lesion = np.zeros(shape, dtype=bool)
    for _ in range(int(rng.integers(1, 4)) if lesions else 0):
        lesion |= _near(position, centre, radii, rng)
    lesion &= tissue
    decoy = _near(position, -centre, 0.95 * half, rng) & tissue & ~organ & ~lesion
    labels = np.where(lesion, 2, organ).astype(np.uint8)
    masks = {"tissue": tissue, "organ": organ, "decoy": decoy, "lesion": lesion}
    return _intensities(masks, position, rng), labels, geometry


def _geometry(rng: np.random.Generator) -> Geometry:
    """Choose a slightly varying, slightly oblique grid whose x and y axes run to the R and A."""
    spacing = np.array([3.0, 1.0, 1.0]) * rng.uniform(0.95, 1.05, 3)
    angle = np.deg2rad(rng.uniform(-5, 5))
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    direction = turn @ np.diag([-1.0, -1.0, 1.0])
    origin = rng.uniform([20, 10, -90], [50, 40, -60])
    return Geometry(
        spacing_mm=tuple(spacing.round(3).tolist()),
        origin=tuple(origin.round(2).tolist()),
        direction=tuple(direction.ravel().tolist()),
    )


def _positions_mm(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Return (3, Z, Y, X): the position of every voxel relative to the centre of the image."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * spacing for n, spacing in zip(shape, spacing_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _blob(
    position: np.ndarray, centre: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the distance from ``centre`` in units of the radii, with a wobble; 1 on the border."""
    column = (3, 1, 1, 1)
    distance = np.sqrt(
        (((position - centre.reshape(column)) / radii.reshape(column)) ** 2).sum(axis=0)
    )
    return distance + 0.06 * _smooth_noise(position.shape[1:], 6.0, rng)


def _near(
    position: np.ndarray, centre: np.ndarray, radii: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return a ball-like mask, 6 to 9 mm in radius, inside or beside the given ellipsoid."""
    way = rng.normal(size=3)
    middle = centre + way / np.linalg.norm(way) * radii * rng.uniform(0.5, 1.0)
    return _blob(position, middle, np.full(3, rng.uniform(6.0, 9.0)), rng) < 1


def _smooth_noise(
    shape: tuple[int, ...], sigma_voxels: float, rng: np.random.Generator
) -> np.ndarray:
    """Return noise of unit variance, smooth in the plane and a third as far across slices."""
    noise = ndimage.gaussian_filter(
        rng.standard_normal(shape), (sigma_voxels / 3, sigma_voxels, sigma_voxels), mode="wrap"
    )
    return noise / noise.std()


def _intensities(
    masks: dict[str, np.ndarray], position: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Turn masks, later over earlier, into the two channels (2, Z, Y, X) int16."""
    shape = position.shape[1:]
    channels = []
    for c in range(len(CHANNELS)):
        clean = np.zeros(shape)
        for name, mask in masks.items():
            clean[mask] = INTENSITIES[name][c] * rng.uniform(0.96, 1.04)
        clean += 20 * _smooth_noise(shape, 2.0, rng) * (1 + masks["organ"])
        bias = np.exp(0.05 * _smooth_noise(shape, 16.0, rng))
        noisy = clean * bias * rng.uniform(0.6, 1.6) + rng.normal(0, 25, shape)
        # Tissue stays above zero: zero in all channels means "no image information".
        channels.append(np.where(masks["tissue"], noisy.clip(1, 32000), 0))
    return np.stack(channels).astype(np.int16)
