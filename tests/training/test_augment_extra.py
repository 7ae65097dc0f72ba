"""Transforms from outside: what they are given, what they may return, and that chance is seeded."""

import random
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch

from segkit.config import AugmentConfig, ExtraTransform, load_recipe
from segkit.errors import UserError
from segkit.structs import to_mapping
from segkit.training.augment import Augmenter, load_extra, spatial_settings

HERE = "test_augment_extra"
RICIAN = "batchgenerators.transforms.noise_transforms:RicianNoiseTransform"


class Record:
    """Remembers what it is called with."""

    seen: ClassVar[list] = []

    def __call__(self, **data):
        self.seen.append({key: (value.shape, value.dtype) for key, value in data.items()})
        return data


def shift(by, data, seg):
    return {"data": data + by, "seg": seg}


def draws(data, seg):
    """Takes random numbers of every kind there is."""
    noise = random.random() + np.random.rand() + float(torch.rand(()))
    return {"data": data + np.float32(noise), "seg": seg}


def returning(data=None, seg=None, **changes):
    made = {"data": data, "seg": seg}
    return made | {key: change(made[key]) for key, change in changes.items()}


BAD = {
    "nothing": lambda **_: None,
    "no_seg": lambda data, seg: {"data": data},
    "shape": lambda data, seg: {"data": data[..., 1:], "seg": seg},
    "integers": lambda data, seg: {"data": data.astype(int), "seg": seg},
    "nan": lambda data, seg: {"data": data * np.nan, "seg": seg},
    "fractions": lambda data, seg: {"data": data, "seg": seg + 0.5},
    "high": lambda data, seg: {"data": data, "seg": seg + 3},
    "low": lambda data, seg: {"data": data, "seg": seg - 2},
    "text": lambda data, seg: {"data": data, "seg": seg.astype(str)},
    "raises": lambda data, seg: data[99],
}
nothing, no_seg, shape, integers, nan = (
    BAD[k] for k in ("nothing", "no_seg", "shape", "integers", "nan")
)
fractions, high, low, text, raises = (
    BAD[k] for k in ("fractions", "high", "low", "text", "raises")
)


def extra(name, largest_label=3, **settings):
    return load_extra(ExtraTransform(path=f"{HERE}:{name}", **settings), largest_label)


def batch(count=4, shape=(6, 5)):
    image = torch.randn(count, 2, *shape, generator=torch.Generator().manual_seed(0))
    seg = torch.randint(-1, 3, (count, 1, *shape), generator=torch.Generator().manual_seed(0))
    return image, seg.to(torch.int16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_convention_of_batchgenerators():
    Record.seen.clear()
    image, seg = batch(3, (4, 6, 5))
    before = image.clone()
    extra("Record")(image, seg, seeded())
    assert Record.seen == [
        {
            "data": ((3, 2, 4, 6, 5), np.dtype("float32")),
            "seg": ((3, 1, 4, 6, 5), np.dtype("int16")),
        }
    ]
    assert torch.equal(image, before)


def test_a_function_takes_its_arguments_and_changes_its_share_of_the_samples():
    image, seg = batch(2000)
    before = image.clone()
    extra("shift", arguments={"by": 1.0}, p=0.3)(image, seg, seeded())
    changed = (image != before).flatten(1)
    assert (changed.all(1) | ~changed.any(1)).all()
    assert changed[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    "path",
    [
        RICIAN,
        "batchgenerators.transforms.noise_transforms:GaussianNoiseTransform",
        "batchgenerators.transforms.color_transforms:ContrastAugmentationTransform",
        "batchgenerators.transforms.spatial_transforms:MirrorTransform",
        "batchgenerators.transforms.spatial_transforms:Rot90Transform",
        "batchgenerators.transforms.resample_transforms:SimulateLowResolutionTransform",
        "batchgenerators.transforms.local_transforms:BrightnessGradientAdditiveTransform",
    ],
)
@pytest.mark.parametrize("shape", [(6, 6), (5, 5, 5)])
def test_transforms_of_batchgenerators_work_and_are_seeded(path, shape):
    arguments = {}
    if "MirrorTransform" in path or "Rot90" in path:
        arguments["axes"] = list(range(len(shape)))
    if "Gradient" in path:
        arguments["scale"] = 3.0
    transform = load_extra(ExtraTransform(path=path, arguments=arguments), 3)
    results = []
    for seed in (1, 1, 2):
        image, seg = batch(4, shape)
        transform(image, seg, seeded(seed))
        assert image.isfinite().all()
        results.append(image)
    assert torch.equal(results[0], results[1])
    if "Contrast" not in path:
        assert not torch.equal(results[0], batch(4, shape)[0])


def test_random_numbers_follow_the_generator_and_nobody_elses_are_touched():
    transform = extra("draws")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    results = []
    for seed in (3, 3, 4):
        image, seg = batch()
        transform(image, seg, seeded(seed))
        results.append(image)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert now == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned NoneType, not a dictionary"),
        ("no_seg", "returned nothing as 'seg', not a numpy array"),
        ("shape", r"returned 'data' of shape \(4, 2, 6, 4\), not \(4, 2, 6, 5\)"),
        ("integers", "returned 'data' of type int64, not of floating point"),
        ("nan", "returned NaN or infinity in 'data'"),
        (
            "fractions",
            r"returned labels that do not exist \(-0.5, 0.5, 1.5, 2.5\); there are -1 to 3",
        ),
        ("high", r"returned labels that do not exist \(4, 5\)"),
        ("low", r"returned labels that do not exist \(-3, -2\)"),
        ("text", "returned 'seg' of type <U.*, not of numbers"),
        ("raises", "failed: IndexError"),
    ],
)
def test_what_a_transform_must_not_return_is_told_with_its_name(name, message):
    image, seg = batch()
    before = image.clone(), seg.clone()
    with pytest.raises(UserError, match=f"{HERE}:{name} {message}") as caught:
        extra(name)(image, seg, seeded())
    assert caught.value.where == "augment.extra"
    assert torch.equal(image, before[0])
    assert torch.equal(seg, before[1])


def test_mistakes_show_before_training_begins():
    extra("Record").try_out(2, 1, (4, 5))
    with pytest.raises(UserError, match="high returned labels that do not exist"):
        extra("high", p=0.0).try_out(2, 1, (4, 5, 3))


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("no.such.module:X", {}, "module 'no.such.module' cannot be imported"),
        (f"{HERE}:Recorder", {}, "has no 'Recorder'"),
        (f"{HERE}:Record", {"depth": 3}, "cannot be made: TypeError"),
        (f"{HERE}:HERE", {}, "it cannot be called"),
        ("missing.py:X", {}, r"there is no file missing\.py"),
    ],
)
def test_what_cannot_be_made_is_refused_before_training(path, arguments, message):
    with pytest.raises(UserError, match=message):
        load_extra(ExtraTransform(path=path, arguments=arguments), 2)


def test_a_file_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Negative:\n    def __call__(self, data, seg):\n"
        "        return {'data': -data, 'seg': seg}\n"
    )
    (tmp_path / "broken.py").write_text("import nothing_like_it\n")
    monkeypatch.chdir(tmp_path)
    image, seg = batch()
    load_extra(ExtraTransform(path="mine.py:Negative"), 3)(image, seg, seeded())
    assert torch.equal(image, -batch()[0])
    with pytest.raises(UserError, match=r"broken\.py cannot be imported: ModuleNotFoundError"):
        load_extra(ExtraTransform(path="broken.py:X"), 3)


def test_the_recipe_names_class_arguments_p_and_place():
    entry = f"{{class: '{RICIAN}', arguments: {{noise_variance: [0, 0.1]}}, p: 0.1}}"
    (one,) = load_recipe("default", [f"augment.extra=[{entry}]"]).augment.extra
    assert (one.path, one.p, one.place) == (RICIAN, 0.1, "after_intensity")
    assert to_mapping(one)["class"] == RICIAN
    transform = load_extra(one, 3)
    assert transform.call.noise_variance == [0, 0.1]
    for bad, message in (
        ("{class: a:b, p: 2}", r"p of a:b must lie in \[0, 1\]"),
        ("{class: noise}", "class must be package.module:Name"),
        ("{path: a:b}", "unknown key 'path'"),
        ("{p: 1}", "missing key 'class'"),
        ("{class: a:b, place: before}", "'before' is not allowed"),
    ):
        with pytest.raises(UserError, match=message):
            load_recipe("default", [f"augment.extra=[{bad}]"])


def test_every_extra_is_applied_at_its_place():
    order = []

    def step(name):
        def call(data, seg):
            order.append((name, float(data.max())))
            return {"data": data, "seg": seg}

        return call

    module = sys.modules[__name__]
    places = ("after_mirror", "after_intensity", "after_spatial")
    for place in places:
        setattr(module, place, step(place))
    config = AugmentConfig(
        p_rotation=0,
        p_scaling=0,
        p_brightness=1,
        brightness=(2, 2),
        p_noise=0,
        p_blur=0,
        p_contrast=0,
        p_low_resolution=0,
        p_gamma=0,
        p_gamma_inverted=0,
    )
    extras = tuple(extra(place, place=place) for place in places)
    settings = spatial_settings((3, 3), config)
    augmenter = Augmenter(config, settings, (True,), extras=extras)
    seg = torch.full((2, 1, 3, 3), -1, dtype=torch.int16)
    image, _ = augmenter(torch.ones(2, 1, 3, 3), seg, seeded())
    assert order == [("after_spatial", 1), ("after_intensity", 2), ("after_mirror", 2)]
    # What they leave at invalid voxels is cleared after them.
    assert (image == 0).all()
