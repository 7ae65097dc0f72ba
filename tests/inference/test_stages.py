"""Three stages over many items: order, errors, and how far they may run apart."""

import threading
import time
import weakref

import pytest

from segkit.errors import UserError
from segkit.inference.stages import Stages, overlapped


def stages(**changed):
    """Read an item to twice of it, compute one more, write that down nowhere."""
    standard = {
        "read": lambda item: 2 * item,
        "compute": lambda prepared: prepared + 1,
        "write": lambda item, prepared, result: None,
        "alone": lambda prepared: False,
    }
    return Stages(**{**standard, **changed})


def run(items, **changed):
    return list(overlapped(items, stages(**changed), str))


@pytest.mark.parametrize("items", [[], [5], [3, 1, 2, 4]])
def test_every_item_goes_through_all_stages_in_order(items):
    written = []
    done = run(items, write=lambda *all_of_it: written.append(all_of_it))
    assert written == [(item, 2 * item, 2 * item + 1) for item in items]
    assert done == [(i, None) for i in range(len(items))]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_an_item_that_fails_does_not_stop_the_others(stage):
    written = []

    def write(item, prepared, result):
        check("write", item)
        written.append(item)

    def check(where, item):
        if where == stage and item == 2:
            raise UserError("bad item")

    done = run(
        [1, 2, 3, 4],
        read=lambda item: check("read", item) or item,
        compute=lambda prepared: check("compute", prepared) or prepared,
        write=write,
    )
    assert written == [1, 3, 4]
    assert [i for i, _ in done] == [0, 1, 2, 3]
    assert [str(error) for _, error in done if error] == ["error: bad item"]
    assert done[1][1] is not None


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_errors_of_the_program_name_the_item(stage):
    def fail(*_):
        raise ValueError("a bug")

    with pytest.raises(RuntimeError, match="case 7: ValueError: a bug"):
        run([7], **{stage: fail})


def test_one_item_ahead_is_read_and_one_behind_is_written_meanwhile():
    begun = {key: threading.Event() for key in ["read 1", "read 2", "write 0"]}

    def read(item):
        begun.get(f"read {item}", threading.Event()).set()
        return item

    def compute(prepared):
        if prepared == 0:
            assert begun["read 1"].wait(5)
            time.sleep(0.05)
            assert not begun["read 2"].is_set()
        if prepared == 1:
            assert begun["write 0"].wait(5)
        return prepared

    def write(item, prepared, result):
        if item == 0:
            begun["write 0"].set()

    assert [error for _, error in run([0, 1, 2], read=read, compute=compute, write=write)] == [
        None
    ] * 3


def test_what_needs_all_memory_waits_until_the_last_is_written():
    written = []

    def compute(prepared):
        assert written == list(range(prepared))
        return prepared

    def write(item, prepared, result):
        time.sleep(0.02)
        written.append(item)

    run(range(4), read=int, compute=compute, write=write, alone=lambda prepared: True)
    assert written == [0, 1, 2, 3]


def test_a_result_is_given_up_once_it_is_written():
    class Result:
        pass

    alive = []

    def compute(prepared):
        assert sum(reference() is not None for reference in alive) <= 1
        result = Result()
        alive.append(weakref.ref(result))
        return result

    run(range(5), read=int, compute=compute)
    assert len(alive) == 5
