"""Work spread over cases: worker processes or threads, errors by case, and workers that die."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from typing import Any, TypeVar

from segkit.errors import UserError
from segkit.runtime import available_memory, cpu_count, log, progress

T = TypeVar("T")
R = TypeVar("R")


def choose_jobs(requested: int | None, *, items: int, bytes_per_job: int = 1 << 29) -> int:
    """Pick the number of workers: as asked, else what CPUs and memory allow."""
    if requested is not None:
        return max(1, min(requested, items))
    by_memory = int(0.8 * available_memory() // max(1, bytes_per_job))
    return max(1, min(cpu_count(), by_memory, items))


def map_cases(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    label: str,
    jobs: int = 1,
    executor: Executor | None = None,
    name: Callable[[T], str] = str,
) -> list[R]:
    """Apply ``function`` to every item, in worker processes when ``jobs`` > 1.

    Args:
        function: Picklable; its result is returned in the order of ``items``.
        items: Picklable inputs.
        label: Shown beside the progress.
        jobs: Local processes (spawned); 1 runs in this process.
        executor: Another engine's executor to use instead.
        name: Names an item in error messages.

    Raises:
        UserError: one block naming every item that failed, after all others are done; or the
            item and signal of a worker that died.
    """
    if executor is not None:
        results = _run(executor, function, items, window=2 * jobs, name=name)
        return gather(results, items, label, name)
    if jobs == 1 or len(items) <= 1:
        attempts = ((i, attempt(function, item, name(item))) for i, item in enumerate(items))
        return gather(attempts, items, label, name)
    with _pool(min(jobs, len(items))) as pool:
        results = _run(pool, function, items, window=2 * jobs, name=name)
        return gather(results, items, label, name)


@contextlib.contextmanager
def threads(jobs: int) -> Iterator[Executor]:
    """Worker threads for :func:`map_cases`; an exception or Ctrl-C does not wait for them.

    What has not begun is dropped then; what runs cannot be ended, and goes on in the background.

    They start at once and share all memory, whereas each process imports everything anew, for
    about half a second. They suit work that is reading, decompressing and array arithmetic, which
    let other threads run meanwhile.
    """
    pool = ThreadPoolExecutor(jobs)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    """Worker processes of one thread each; an exception or Ctrl-C ends them at once."""
    # Most commands need no processes, and these take long to import.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone: killed, it cannot end its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempt(function: Callable[[T], R], item: T, name: str) -> R | UserError:
    """Call the function; a ``UserError`` is returned, without what its traceback keeps alive.

    Raises:
        RuntimeError: any other error, naming the case.
    """
    try:
        return function(item)
    except UserError as error:
        log.debug("case %s failed", name, exc_info=True)
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:
        raise RuntimeError(f"case {name}: {type(error).__name__}: {error}") from error


def _run(
    executor: Executor,
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    window: int,
    name: Callable[[T], str],
) -> Iterable[tuple[int, R | UserError]]:
    """Keep ``window`` items in flight, so that a dead worker leaves few suspects."""
    waiting = iter(enumerate(items))
    running: dict[Future[Any], int] = {}
    workers: dict[int, Any] = {}
    while True:
        try:
            for i, item in itertools.islice(waiting, window - len(running)):
                running[executor.submit(attempt, function, item, name(item))] = i
                # The executor forgets its processes when one dies; their exit codes tell why.
                workers.update(getattr(executor, "_processes", None) or {})
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            finished = [(running[future], future.result()) for future in done]
        except BrokenExecutor:
            suspects = ", ".join(name(items[i]) for i in running.values())
            raise _dead_worker(workers.values(), suspects) from None
        for future in done:
            running.pop(future)
        yield from finished


def _dead_worker(workers: Iterable[Any], suspects: str) -> UserError:
    for worker in workers:
        worker.join(timeout=5)
    codes = sorted({worker.exitcode for worker in workers if worker.exitcode} - {-signal.SIGTERM})
    causes = [signal.Signals(-c).name if c < 0 else f"exit code {c}" for c in codes]
    hint = " (usually out of memory)" if -9 in codes else ""
    return UserError(
        f"a worker process died: {', '.join(causes) or 'unknown cause'}{hint}",
        where=f"one of the cases {suspects}",
        fix="run again with fewer workers (-j 1), or give the machine more memory",
    )


def gather(
    results: Iterable[tuple[int, Any]],
    items: Sequence[T],
    label: str,
    name: Callable[[T], str],
) -> list[Any]:
    """Collect the results of all items, showing progress.

    Args:
        results: (index of the item, its result or its ``UserError``).
        items: What the indices count.
        label: Shown beside the progress.
        name: Names an item in error messages.

    Raises:
        UserError: one block naming every item that failed.
    """
    gathered: list[Any] = [None] * len(items)
    if not items:
        return gathered
    for i, result in progress(results, label, total=len(items)):
        gathered[i] = result
    failed = [i for i, result in enumerate(gathered) if isinstance(result, UserError)]
    if failed and len(items) == 1:
        raise gathered[0]
    if failed:
        blocks = "\n".join(f"[{name(items[i])}] {gathered[i]}" for i in failed)
        raise UserError(f"{label}: {len(failed)} of {len(items)} cases failed\n{blocks}")
    return gathered
