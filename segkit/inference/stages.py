"""Reading the next item and writing the last while this one is computed, in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch

from segkit.errors import UserError
from segkit.parallel import attempt, threads
from segkit.runtime import limit_torch_threads, log

T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")

Job = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Stages(Generic[T, P, R]):
    """What is done to every item, one stage after the other."""

    read: Callable[[T], P]
    """In a thread of its own, at most one item ahead."""
    compute: Callable[[P], R]
    """In the calling thread."""
    write: Callable[[T, R], None]
    """In a thread of its own, at most one item behind; what was read is given up by then."""
    alone: Callable[[P], bool]
    """Whether what was read needs so much memory that the last item has to be written first."""


def overlapped(
    items: Sequence[T], stages: Stages[T, P, R], name: Callable[[T], str]
) -> Iterator[tuple[int, UserError | None]]:
    """Take all items through the stages; yields the index of each that is done, in order.

    A stage that raises ``UserError`` ends its item, which is yielded with it; the others go on.
    Any other error and Ctrl-C end all of it: what is computed is still written, and what is not
    yet being read is left.

    Raises:
        RuntimeError: any other error, naming the item.
    """
    with ThreadPoolExecutor(1, "write") as writer, threads(1) as reader:
        # With all cores for both, the network and what is written beside it wait for one another
        # at every operation: 52 small cases take 26 s on 2 cores, and 20 s this way.
        writer.submit(limit_torch_threads, max(1, torch.get_num_threads() // 4)).result()
        following = (reader.submit(stages.read, item) for item in items)
        ahead = next(following, None)
        behind: Future[UserError | None] | None = None
        for i, item in enumerate(items):
            assert ahead is not None
            compute = partial(_computed, stages, ahead, behind)
            ahead = next(following, None)
            with _failure_logged(behind, name(items[i - 1])):
                job = attempt(compute, item, name(item))
            del compute
            last, behind = behind, writer.submit(_finish, job, name(item))
            # Whoever computes the next item must not hold on to this one.
            del job
            if last is not None:
                with _failure_logged(behind, name(item)):
                    outcome = last.result()
                yield i - 1, outcome
        if behind is not None:
            yield len(items) - 1, behind.result()


def _computed(
    stages: Stages[T, P, R], reading: Future[P], behind: Future[UserError | None] | None, item: T
) -> Job:
    """Compute an item; returns what writes it."""
    prepared = reading.result()
    if behind is not None and stages.alone(prepared):
        wait([behind])
    return partial(stages.write, item, stages.compute(prepared))


def _finish(job: Job | UserError, name: str) -> UserError | None:
    return job if isinstance(job, UserError) else attempt(lambda write: write(), job, name)


@contextlib.contextmanager
def _failure_logged(writing: Future[UserError | None] | None, name: str) -> Iterator[None]:
    """Where an error ends everything, tell whether the item that is being written fails too."""
    try:
        yield
    except Exception:
        if writing is not None and (error := writing.exception() or writing.result()):
            log.error("case %s: %s", name, error)
        raise
