"""Work spread over cases: order, errors, and workers that die."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from segkit.errors import UserError
from segkit.parallel import choose_jobs, map_cases, threads
from segkit.runtime import cpu_count, resolve_device


def double(number):
    if number < 0:
        raise UserError(f"{number} is negative", where="here", fix="use positive numbers")
    return 2 * number


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order(jobs):
    assert map_cases(double, list(range(8)), label="x", jobs=jobs) == [2 * i for i in range(8)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_failures_are_reported_after_the_others_ran(jobs):
    with pytest.raises(UserError, match="2 of 4 cases failed") as caught:
        map_cases(double, [1, -1, 2, -2], label="x", jobs=jobs, name=lambda n: f"case{n}")
    assert "[case-1]" in str(caught.value)
    assert "-2 is negative" in str(caught.value)


def test_threads_do_the_work_in_this_process_and_name_what_failed():
    def work(number):
        return os.getpid(), double(number)

    with threads(3) as pool:
        found = map_cases(work, list(range(20)), label="x", jobs=3, executor=pool)
        assert found == [(os.getpid(), 2 * number) for number in range(20)]
        with pytest.raises(UserError, match="2 of 3 cases failed"):
            map_cases(work, [-1, 1, -2], label="x", jobs=3, executor=pool)


def test_an_unexpected_error_does_not_wait_for_running_threads():
    released, ended = threading.Event(), []

    def work(number):
        if number:
            raise KeyError(number)
        ended.append(released.wait(20))

    with pytest.raises(RuntimeError, match="case 1: KeyError"), threads(2) as pool:
        map_cases(work, [0, 1], label="x", jobs=2, executor=pool)
    assert not ended
    released.set()


def test_the_failure_of_an_only_item_is_raised_as_it_was():
    with pytest.raises(UserError) as caught:
        map_cases(double, [-1], label="x", jobs=2)
    assert caught.value.fix == "use positive numbers"


def test_one_failure_of_several_says_how_many_there_are():
    with pytest.raises(UserError, match=r"x: 1 of 2 cases failed\n\[-1\] error: -1 is negative"):
        map_cases(double, [1, -1], label="x", jobs=2)


def test_a_dead_worker_is_named_with_signal_and_cases():
    with pytest.raises(UserError, match="SIGKILL") as caught:
        map_cases(die, [1, 2, 3, 4], label="x", jobs=2, name=lambda n: f"case{n}")
    assert "case3" in str(caught.value)


def test_jobs_follow_request_items_and_memory():
    assert choose_jobs(5, items=3) == 3
    assert choose_jobs(0, items=3) == 1
    assert choose_jobs(None, items=100) <= cpu_count()
    assert choose_jobs(None, items=100, bytes_per_job=1 << 60) == 1


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_devices_that_do_not_exist_are_refused(name):
    with pytest.raises(UserError, match="device"):
        resolve_device(name)


def test_cpu_is_always_there():
    assert resolve_device("cpu").type == "cpu"


ENDLESS = """
import os, time
from segkit.parallel import map_cases

def wait_long(number):
    print(os.getpid(), flush=True)
    time.sleep(number)

if __name__ == "__main__":
    map_cases(wait_long, [600, 0.0, 0.0], label="x", jobs=2)
"""


def test_workers_end_when_the_command_is_killed(tmp_path):
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        # One is at work, the other waits for more.
        workers = {int(run.stdout.readline()) for _ in range(3)}
        assert len(workers) == 2
        assert all(is_running(worker) for worker in workers)
        run.kill()
    until = time.monotonic() + 30
    while any(is_running(worker) for worker in workers):
        assert time.monotonic() < until, "workers outlive the command"
        time.sleep(0.05)


def is_running(process):
    """Whether a process is there and does not only wait to be reaped."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
