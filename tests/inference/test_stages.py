"""Three stages over many items: order, errors, and how far they may run apart."""

import logging
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch

from segkit.errors import UserError
from segkit.inference.stages import Stages, overlapped
from segkit.runtime import one_torch_thread


def stages(**changed):
    """Read an item to twice of it, compute one more, write that down nowhere."""
    standard = {
        "read": lambda item: 2 * item,
        "compute": lambda prepared: prepared + 1,
        "write": lambda item, result: None,
        "alone": lambda prepared: False,
    }
    return Stages(**{**standard, **changed})


def run(items, **changed):
    return list(overlapped(items, stages(**changed), str))


@pytest.mark.parametrize("items", [[], [5], [3, 1, 2, 4]])
def test_every_item_goes_through_all_stages_in_order(items):
    written = []
    done = run(items, write=lambda *all_of_it: written.append(all_of_it))
    assert written == [(item, 2 * item + 1) for item in items]
    assert done == [(i, None) for i in range(len(items))]


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_an_item_that_fails_does_not_stop_the_others(stage):
    written = []

    def write(item, result):
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
    begun = {key: threading.Event() for key in ["read 1", "write 0"]}
    ended = []

    def read(item):
        # Reading the one after the next begins only when the computation of this one is over.
        assert len(ended) >= item - 1
        begun.get(f"read {item}", threading.Event()).set()
        return item

    def compute(prepared):
        if prepared == 0:
            assert begun["read 1"].wait(5)
        if prepared == 1:
            assert begun["write 0"].wait(5)
        ended.append(prepared)
        return prepared

    def write(item, result):
        begun.get(f"write {item}", threading.Event()).set()

    done = run(range(4), read=read, compute=compute, write=write)
    assert done == [(i, None) for i in range(4)]


def test_what_needs_all_memory_waits_until_the_last_is_written():
    asked, written = [threading.Event() for _ in range(4)], []

    def alone(prepared):
        asked[prepared].set()
        return True

    def compute(prepared):
        assert written == list(range(prepared))
        return prepared

    def write(item, result):
        # The writing is not over before the next item is ready to be computed.
        assert item == 3 or asked[item + 1].wait(5)
        written.append(item)

    done = run(range(4), read=int, compute=compute, write=write, alone=alone)
    assert done == [(i, None) for i in range(4)]
    assert written == [0, 1, 2, 3]


class Large:
    """Stands in for an image or logits."""


@pytest.mark.parametrize("stage", [None, "compute", "write"])
def test_images_and_results_are_given_up_once_they_are_written_or_failed(stage):
    alive = {"read": [], "compute": []}

    def count(kind):
        return sum(reference() is not None for reference in alive[kind])

    def made(kind):
        large = Large()
        alive[kind].append(weakref.ref(large))
        return large

    def compute(prepared):
        # That of the last item is being written, the image of the next one read.
        assert count("compute") <= 1
        assert count("read") <= 2
        result = made("compute")
        fail_in("compute")
        return result

    def fail_in(where):
        if stage == where:
            try:
                raise OSError("disk full")
            except OSError as error:
                raise UserError("cannot do it") from error

    done = run(
        range(5),
        read=lambda item: made("read"),
        compute=compute,
        write=lambda item, result: fail_in("write"),
    )
    assert len(alive["compute"]) == 5
    assert all((error is not None) == (stage is not None) for _, error in done)
    assert count("read") == count("compute") == 0


def test_an_interrupt_leaves_what_is_not_being_read_and_writes_what_is_computed(monkeypatch):
    reads, written, begun = [], [], threading.Event()
    cancelled, cancel = threading.Event(), Future.cancel
    monkeypatch.setattr(Future, "cancel", lambda future: cancelled.set() or cancel(future))

    def read(item):
        reads.append(item)
        if item == 1:
            begun.set()
        assert item == 0 or cancelled.wait(5)
        return item

    def write(item, result):
        assert cancelled.wait(5)
        written.append(item)

    def name(item):
        # Item 0 is computed, item 1 is being read, and item 2 waits for that.
        if item == 1:
            assert begun.wait(5)
            raise KeyboardInterrupt
        return str(item)

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(range(4), stages(read=read, write=write), name))
    assert written == [0]
    assert reads == [0, 1]


def test_an_error_that_ends_everything_does_not_hide_that_of_the_item_before(caplog):
    def compute(prepared):
        if prepared == 4:
            raise ValueError("a bug")
        return prepared

    def write(item, result):
        raise UserError("disk full")

    with (
        caplog.at_level(logging.ERROR, logger="segkit"),
        pytest.raises(RuntimeError, match="case 2: ValueError"),
    ):
        run([1, 2], compute=compute, write=write)
    assert [record.message for record in caplog.records] == ["case 1: error: disk full"]


def test_writing_leaves_cores_to_the_network_and_no_other_thread_loses_any():
    found = {}

    def read(item):
        found["read"] = torch.get_num_threads()

    def compute(prepared):
        # Whatever the network wants is for its own thread.
        with one_torch_thread():
            found["compute"] = torch.get_num_threads()

    def write(item, result):
        found["write"] = torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        run([1], read=read, compute=compute, write=write)
        with ThreadPoolExecutor(1) as later:
            found["later"] = later.submit(torch.get_num_threads).result()
    finally:
        torch.set_num_threads(before)
    assert found == {"read": 8, "write": 2, "compute": 1, "later": 8}
