"""The patches of a preview are those that training begins with."""

from dataclasses import replace

import numpy as np
import torch
from test_setup import task

from segkit.training.parts import load_batch
from segkit.training.preview import first_patches
from segkit.training.setup import build_parts
from segkit.training.step import batch_generator


class Source:
    """One case of noise."""

    def image(self, case):
        return np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)

    def seg(self, case):
        return np.random.default_rng(1).integers(-1, 2, (1, 20, 20, 20)).astype(np.int16)

    def locations(self, case):
        return {1: np.argwhere(self.seg(case)[0] == 1)}


def test_they_are_drawn_and_augmented_as_in_training():
    of = task()
    pairs = first_patches(of, Source(), 5)
    assert [pair.case for pair in pairs] == ["x"] * 5
    parts = build_parts(of, Source(), torch.device("cpu"))
    seed = parts.train_loader.settings.seed
    for number, first in ((0, 0), (1, 3)):
        batch = load_batch(parts.train_loader, torch.device("cpu"))
        image, seg = parts.augment(batch.image, batch.seg, batch_generator([*seed, number]))
        for i, pair in enumerate(pairs[first : first + 3]):
            np.testing.assert_array_equal(pair.augmented_image, image[i])
            np.testing.assert_array_equal(pair.augmented_seg, seg[i])


def test_what_is_shown_before_is_the_middle_of_what_is_read():
    calm = {name: 0.0 for name in ("p_rotation", "p_scaling", "p_noise", "p_blur", "p_gamma")}
    calm |= {f"p_{name}": 0.0 for name in ("brightness", "contrast", "low_resolution")}
    still = task()
    augment = replace(still.recipe.augment, mirror=False, p_gamma_inverted=0.0, **calm)
    still = replace(still, recipe=replace(still.recipe, augment=augment))
    for pair in first_patches(still, Source(), 4):
        assert pair.image.shape == (1, 16, 16, 16)
        np.testing.assert_array_equal(pair.image, pair.augmented_image)
        np.testing.assert_array_equal(pair.seg, pair.augmented_seg)
