"""Progress where stderr is no terminal, and threads beside other programs."""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from segkit import runtime

REAL_IDLE_CPUS = runtime.idle_cpus
"""Every test has a machine of its own (conftest.py), but for the one that asks for this one."""


@pytest.mark.parametrize(
    ("total", "closing_line", "lines"),
    [
        (
            3,
            True,
            ["x: 1 of 3, 4 s left", "x: 2 of 3, 2 s left", "x: 3 of 3, 0 s left", "x: 3 of 3"],
        ),
        (3, False, ["x: 1 of 3, 4 s left", "x: 2 of 3, 2 s left", "x: 3 of 3, 0 s left"]),
        (None, True, ["x: 1 of ?", "x: 2 of ?", "x: 3 of ?", "x: 3 of 3"]),
    ],
)
def test_plain_progress_says_how_far_and_how_long(monkeypatch, caplog, total, closing_line, lines):
    seconds = iter(range(0, 100))
    monkeypatch.setattr(runtime, "SECONDS_BETWEEN_LINES", 0.5)
    monkeypatch.setattr(runtime.time, "monotonic", lambda: 1.0 * next(seconds))
    with caplog.at_level(logging.INFO, logger="segkit"):
        items = runtime.progress("abc", "x", total=total, closing_line=closing_line)
        assert list(items) == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == lines


def test_idle_time_counts_the_cpus_of_this_process_only():
    before = {0: [0] * 8, 1: [5, 1, 0, 7, 2, 0, 0, 1], 2: [0] * 8}
    after = {
        0: [10, 0, 0, 0, 0, 0, 0, 0],
        1: [9, 2, 1, 10, 3, 0, 0, 1],
        2: [0, 0, 0, 9, 1, 0, 0, 0],
    }
    assert runtime.idle_time(before, after, {1}) == (1 + 3 + 1, 10)
    assert runtime.idle_time(before, after, {0, 1, 2}) == (0 + 5 + 10, 30)


def look(at, own, *busy):
    """Return what two CPUs had done by second ``at``, of which each was busy for some."""
    ticks = os.sysconf("SC_CLK_TCK")
    spent = {
        i: [round(n * ticks), 0, 0, round((at - n) * ticks), 0, 0, 0, 0] for i, n in enumerate(busy)
    }
    return runtime._Look(at=at, own=own, ticks=spent)


@pytest.mark.parametrize(
    ("now", "idle"),
    [
        (look(1.0, 0.0, 0.0, 0.0), 2),
        (look(1.0, 0.0, 1.0, 0.5), 0.5),
        # What this process did meanwhile takes nothing from it.
        (look(1.0, 1.0, 1.0, 0.0), 2),
        (look(1.0, 0.5, 1.0, 0.5), 1),
    ],
)
def test_idle_cpus_looks_back_to_the_import(monkeypatch, now, idle):
    monkeypatch.setattr(runtime, "cpu_count", lambda: 2)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(runtime, "_FIRST_LOOK", look(0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(runtime.time, "monotonic", lambda: 1.0)
    monkeypatch.setattr(runtime.time, "sleep", lambda _: pytest.fail("there was no need to wait"))
    monkeypatch.setattr(runtime, "_look", lambda: now)
    assert REAL_IDLE_CPUS() == pytest.approx(idle)


@pytest.mark.parametrize("first", [None, look(0.0, 0.0, 0.0, 0.0)])
def test_idle_cpus_waits_where_the_import_is_long_ago(monkeypatch, first):
    looks = iter([look(60.0, 9.0, 20.0, 60.0), look(61.0, 9.0, 21.0, 60.0)])
    waited = []
    monkeypatch.setattr(runtime, "cpu_count", lambda: 2)
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(runtime, "_FIRST_LOOK", first)
    monkeypatch.setattr(runtime.time, "monotonic", lambda: 60.0)
    monkeypatch.setattr(runtime.time, "sleep", waited.append)
    monkeypatch.setattr(runtime, "_look", lambda: next(looks))
    assert REAL_IDLE_CPUS() == pytest.approx(1)
    assert len(waited) == 1


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)
    runtime._REDUCED.clear()


@pytest.mark.parametrize(("idle", "threads"), [(4.0, 4), (3.6, 4), (2.4, 2), (0.2, 1)])
def test_cores_that_others_use_are_left_to_them(monkeypatch, caplog, four_threads, idle, threads):
    monkeypatch.setattr(runtime, "cpu_count", lambda: 4)
    monkeypatch.setattr(runtime, "idle_cpus", lambda: idle)
    with caplog.at_level(logging.INFO, logger="segkit"):
        runtime.prepare_torch()
    assert torch.get_num_threads() == threads
    told = f"other programs keep {4 - threads} of 4 CPUs busy: using {threads}"
    assert [record.message for record in caplog.records] == ([told] if threads < 4 else [])
    # Once they are done, all are used again.
    monkeypatch.setattr(runtime, "idle_cpus", lambda: 4.0)
    runtime.prepare_torch()
    assert torch.get_num_threads() == 4


def test_what_is_to_be_repeated_keeps_its_threads(monkeypatch, caplog, four_threads):
    monkeypatch.setattr(runtime, "cpu_count", lambda: 4)
    monkeypatch.setattr(runtime, "idle_cpus", lambda: 1.0)
    runtime.prepare_torch("tell")
    assert torch.get_num_threads() == 4
    assert "OMP_NUM_THREADS=1 may be much faster" in caplog.text
    caplog.clear()
    runtime.prepare_torch("ignore")
    assert torch.get_num_threads() == 4
    assert not caplog.records


def threads_of_a_new_one():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_one_thread_for_a_while_and_for_nobody_else(four_threads):
    with runtime.one_torch_thread():
        assert torch.get_num_threads() == 1
        assert threads_of_a_new_one() == 4
    assert torch.get_num_threads() == 4


def test_threads_that_take_one_at_the_same_time_get_theirs_back(four_threads):
    begun, ended = threading.Event(), threading.Event()

    def other():
        with runtime.one_torch_thread():
            begun.set()
            ended.wait(60)
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        with runtime.one_torch_thread():
            later = pool.submit(other)
            assert begun.wait(60)
        ended.set()
        assert later.result() == torch.get_num_threads() == threads_of_a_new_one() == 4


def test_idle_cpus_are_between_none_and_all():
    assert 0 <= REAL_IDLE_CPUS() <= runtime.cpu_count()
