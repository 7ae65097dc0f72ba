"""Reading the next item and writing the last while this one is computed, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from segkit.errors import UserError
from segkit.parallel import attempt

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
    write: Callable[[T, P, R], None]
    """In a thread of its own, at most one item behind."""
    alone: Callable[[P], bool]
    """Whether what was read needs so much memory that the last item has to be written first."""


def overlapped(
    items: Sequence[T], stages: Stages[T, P, R], name: Callable[[T], str]
) -> Iterator[tuple[int, UserError | None]]:
    """Take all items through the stages; yields the index of each that is done, in order.

    A stage that raises ``UserError`` ends its item, which is yielded with it; the others go on.

    Raises:
        RuntimeError: any other error, naming the item.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        following = (reader.submit(stages.read, item) for item in items)
        ahead = next(following, None)
        behind: Future[UserError | None] | None = None
        for i, item in enumerate(items):
            assert ahead is not None
            compute = partial(_computed, stages, ahead, behind)
            ahead = next(following, None)
            job = attempt(compute, item, name(item))
            del compute
            if behind is not None:
                yield i - 1, behind.result()
            behind = writer.submit(_finish, job, name(item))
            # Whoever computes the next item must not hold on to this one.
            del job
        if behind is not None:
            yield len(items) - 1, behind.result()


def _computed(
    stages: Stages[T, P, R], reading: Future[P], behind: Future[UserError | None] | None, item: T
) -> Job:
    """Compute an item; returns what writes it."""
    prepared = reading.result()
    if behind is not None and stages.alone(prepared):
        wait([behind])
    return partial(stages.write, item, prepared, stages.compute(prepared))


def _finish(job: Job | UserError, name: str) -> UserError | None:
    return job if isinstance(job, UserError) else attempt(lambda write: write(), job, name)
