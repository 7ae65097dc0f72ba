"""A run that was interrupted, wherever and however often, leaves the same bytes behind."""

import contextlib
import itertools
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from segkit.config import load_recipe
from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.dataset.splits import Split
from segkit.runtime import StopRequested
from segkit.training import loop, online_validation
from segkit.training.record import read_record
from segkit.training.run import RunSettings, train_fold
from segkit.training.task import TrainingTask
from tests.tiny import tiny_configuration, tiny_plan

CLASSES = (LabelClass(name="a", value=1), LabelClass(name="b", value=2))
LABELS = LabelSchema(classes=CLASSES)
REGIONS = LabelSchema(
    classes=CLASSES,
    regions=(Region(name="all", members=(1, 2), paint=1), Region(name="b", members=(2,), paint=2)),
)
TWICE_THREE = ["epochs=2", "iterations_per_epoch=3", "validation_iterations=2"]
CLOCK_FIELDS = {"seconds", "data_wait_share", "eta_seconds", "longest_closing"}
RECIPES = {
    "default": ["deterministic=true"],
    "averaged adam": ["optimizer.name=adam", "averaging.decay=0.9", "annealing=cosine"],
    "accumulated adamw": [
        *("optimizer.name=adamw", "amsgrad=true", "accumulate=2", "warmup=4"),
        *("gradient_clip=null", "averaging.decay=0.5", "sampling.foreground=probabilistic"),
    ],
    "bf16": ["precision=bf16", "loss.cross_entropy=topk", "warmup=0.5"],
    "adan": ["optimizer.name=adan"],
    "muon with dropout": ["optimizer.name=muon", "averaging.decay=0.9", "network.dropout=0.3"],
    "batch norm": ["network.norm=batch", "averaging.decay=0.7"],
    "early stopping": [
        *("epochs=9", "early_stopping=1", "learning_rate=1e-12", "loss.deep_supervision=false"),
    ],
}


class Cases:
    """Noise, in which bright voxels are a and very bright ones b."""

    def image(self, case_id):
        rng = np.random.default_rng(ord(case_id))
        return rng.normal(size=(1, 12, 12, 12)).astype(np.float32)

    def seg(self, case_id):
        image = self.image(case_id)
        return ((image > 0.5).astype(np.int16) + (image > 1.2)).astype(np.int16)

    def locations(self, case_id):
        seg = self.seg(case_id)[0]
        return {index: np.argwhere(seg == index) for index in (1, 2)}


def task_of(settings, schema=LABELS, ndim=3):
    recipe = load_recipe("default", [*TWICE_THREE, "precision=fp32", *settings])
    return TrainingTask(
        plan=tiny_plan(tiny_configuration(ndim=ndim, stages=3)),
        configuration="2d" if ndim == 2 else "3d_fullres",
        schema=schema,
        split=Split(train=("p", "q"), val=("r",)),
        fold=0,
        recipe=recipe,
    )


def train(task, folder, *, resume=False):
    run = RunSettings(device=torch.device("cpu"), started=time.monotonic(), resume=resume)
    return train_fold(task, Cases(), folder, run, draw=lambda path: None)


def left_behind(folder):
    """Everything a run leaves, but for what the clock said."""
    found = {
        path.name: flat(torch.load(path, weights_only=True)) for path in sorted(folder.glob("*.pt"))
    }
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return {**found, "log": [flat(line) for line in lines]}


def flat(content, prefix=""):
    """Return names and values, with the bytes of tensors."""
    if isinstance(content, torch.Tensor):
        return {prefix: (content.dtype, content.shape, content.numpy().tobytes())}
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        kept = {key: value for key, value in content.items() if key not in CLOCK_FIELDS}
        parts = [flat(value, f"{prefix}.{key}") for key, value in kept.items()]
        return {name: value for part in parts for name, value in part.items()}
    return {prefix: content}


def after_calls(monkeypatch, name, count, action, module=loop):
    """Do something after so many calls of a function, as the module sees it."""
    calls, original = [], getattr(module, name)

    def call(*arguments, **named):
        result = original(*arguments, **named)
        calls.append(1)
        if len(calls) == count:
            action()
        return result

    monkeypatch.setattr(module, name, call)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


class Killed(Exception):
    """Nothing is saved any more."""


def die():
    raise Killed


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, tmp_path_factory):
    """A task, and what an uninterrupted run of it leaves behind."""
    task = task_of(RECIPES[request.param])
    folder = tmp_path_factory.mktemp("whole")
    train(task, folder)
    return task, left_behind(folder)


def sessions_until_done(task, folder, session):
    """Go on until the run is complete; returns how many sessions that took."""
    sessions = 0
    while not (folder / "final.pt").exists():
        resume = (folder / "last.pt").exists()
        with contextlib.suppress(StopRequested, Killed):
            session(lambda resume=resume: train(task, folder, resume=resume))
        sessions += 1
        assert sessions < 20
    return sessions


def test_interrupted_after_every_step_it_is_the_same_run(whole, tmp_path, monkeypatch):
    task, expected = whole

    def session(begin):
        with monkeypatch.context() as patched:
            after_calls(patched, "train_step", 1, stop)
            begin()

    # After the last step a signal leaves the validation to one more session.
    assert sessions_until_done(task, tmp_path, session) == 7
    assert left_behind(tmp_path) == expected


def test_interrupted_in_every_validation_and_after_it_too(whole, tmp_path, monkeypatch):
    task, expected = whole
    moments = itertools.cycle([(online_validation, "overlap_counts"), (loop, "validate_online")])

    def session(begin):
        with monkeypatch.context() as patched:
            module, name = next(moments)
            after_calls(patched, name, 1, stop, module=module)
            begin()

    assert sessions_until_done(task, tmp_path, session) == 4
    assert left_behind(tmp_path) == expected


@pytest.mark.parametrize("step", range(1, 7))
def test_killed_it_goes_on_from_the_last_checkpoint(step, tmp_path, monkeypatch):
    task = task_of([*RECIPES["averaged adam"], "checkpoint_every_minutes=0"])
    train(task, tmp_path / "whole")
    with monkeypatch.context() as patched:
        after_calls(patched, "train_step", step, die)
        with pytest.raises(Killed):
            train(task, tmp_path / "killed")
    assert (tmp_path / "killed" / "last.pt").exists() == (step > 3)
    # A line that was begun, and one of an epoch that is not in the checkpoint.
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"epoch": 2}\n{"epoch": ')
    train(task, tmp_path / "killed", resume=step > 3)
    assert left_behind(tmp_path / "killed") == left_behind(tmp_path / "whole")


def test_a_second_signal_saves_nothing_half_done(tmp_path, monkeypatch):
    task = task_of([])
    train(task, tmp_path / "whole")

    def twice():
        stop()
        stop()

    with monkeypatch.context() as patched:
        after_calls(patched, "train_step", 2, stop)
        with pytest.raises(StopRequested):
            train(task, tmp_path / "cut")
    saved = (tmp_path / "cut" / "last.pt").read_bytes()
    with monkeypatch.context() as patched:
        after_calls(patched, "train_step", 1, twice)
        with pytest.raises(KeyboardInterrupt):
            train(task, tmp_path / "cut", resume=True)
    assert (tmp_path / "cut" / "last.pt").read_bytes() == saved
    train(task, tmp_path / "cut", resume=True)
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")


def test_a_signal_at_the_very_end_leaves_a_complete_run(tmp_path):
    task = task_of([])

    def draw(folder):
        if (folder / "final.pt").exists():
            stop()

    run = RunSettings(device=torch.device("cpu"), started=time.monotonic())
    with pytest.raises(StopRequested):
        train_fold(task, Cases(), tmp_path, run, draw=draw)
    before = left_behind(tmp_path)
    train(task, tmp_path, resume=True)
    assert left_behind(tmp_path) == before


@pytest.mark.parametrize(
    ("schema", "ndim", "settings"),
    [
        (REGIONS, 3, ["invalid_voxels=background"]),
        (LABELS, 2, ["optimizer.name=adam", "averaging.decay=0.9"]),
    ],
    ids=["regions", "2d"],
)
def test_regions_and_planes_resume_exactly_too(schema, ndim, settings, tmp_path, monkeypatch):
    task = task_of(settings, schema, ndim)
    train(task, tmp_path / "whole")

    def session(begin):
        with monkeypatch.context() as patched:
            after_calls(patched, "train_step", 2, stop)
            begin()

    assert sessions_until_done(task, tmp_path / "cut", session) > 2
    assert left_behind(tmp_path / "cut") == left_behind(tmp_path / "whole")


def test_a_complete_run_may_be_extended(tmp_path):
    task = task_of([])
    train(task, tmp_path)
    recipe = replace(task.recipe, schedule=replace(task.recipe.schedule, epochs=4))
    state = train(replace(task, recipe=recipe), tmp_path, resume=True)
    assert (state.epoch, state.iteration) == (4, 12)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    # The learning rate follows the longer schedule from where it is: half of 12 steps are done.
    assert lines[2]["learning_rate"] == pytest.approx(
        read_record(tmp_path).resolved.optimizer.learning_rate * (1 - 8 / 12) ** 0.9
    )
    assert torch.load(tmp_path / "final.pt", weights_only=True)["state"]["iteration"] == 12


def test_what_predicts_is_the_average(tmp_path):
    """In best.pt, final.pt and last.pt, which also has what is trained."""
    task = task_of(["averaging.decay=0.9", "learning_rate=1"])
    train(task, tmp_path)
    last, final = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("last", "final"))
    assert flat(last["network"]) == flat(final["network"])
    assert flat(last["trained_network"]) != flat(last["network"])
    assert "optimizer" not in final
