"""What a run stands on: device, jobs, logging, progress, and work spread over cases."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from segkit.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger("segkit")


def set_up_logging(verbosity: int) -> None:
    """Send messages to stderr: -1 only warnings, 0 progress lines, 1 details."""
    level = {-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ShortFormatter())
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


class _ShortFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno <= logging.INFO else f"warning: {message}"


def progress(
    items: Iterable[T], label: str, *, total: int | None = None, closing_line: bool = True
) -> Iterable[T]:
    """Iterate with a tqdm bar on a terminal, or one plain line at the end otherwise."""
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total, leave=closing_line, dynamic_ncols=True)
        return
    count = 0
    for item in items:
        yield item
        count += 1
    if closing_line:
        log.info("%s: %d done", label, count)


def resolve_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` into a device that exists.

    Raises:
        UserError: unknown name, or this machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        fix = "use auto, cpu, cuda, cuda:N or mps"
        raise UserError(f"unknown device {name!r}", where="--device", fix=fix)
    available = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[device.type]:
        fix = "use --device auto, or see 'segkit doctor'"
        raise UserError(f"this machine has no device {name!r}", where="--device", fix=fix)
    return device


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until the yielded function is called, which then raises.

    A second signal acts at once. Outside the main thread signals are left as they are.

    Raises:
        KeyboardInterrupt: from the yielded function, after a signal.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        log.warning("stopping after this step; once more stops at once")

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cpu_count() -> int:
    """CPUs this process may use: affinity mask and cgroup quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def keep_large_blocks() -> None:
    """Tell glibc to reuse large blocks of memory instead of returning them to the system.

    Every tensor of a training step above 32 MiB would otherwise be mapped, zeroed page by page and
    unmapped again; keeping them about halves the step on a CPU. Elsewhere than glibc: nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def available_memory() -> int:
    """Bytes of memory still free to this process (cgroup limit included)."""
    free = 4 << 30
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(free, 1 << 28)


def choose_jobs(requested: int | None, *, items: int, bytes_per_job: int = 1 << 29) -> int:
    """Pick the number of worker processes: as asked, else what CPUs and memory allow."""
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
    own = executor is None and jobs > 1 and len(items) > 1
    if executor is None and not own:
        attempts: Iterable[tuple[int, Any]] = (
            (i, _attempt(function, item)) for i, item in enumerate(items)
        )
        return _gather(attempts, items, label, name)
    if executor is None:
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(min(jobs, len(items)), mp_context=context)
    try:
        return _gather(_run(executor, function, items, 2 * jobs, name), items, label, name)
    finally:
        if own:
            executor.shutdown(wait=True, cancel_futures=True)


def _attempt(function: Callable[[T], R], item: T) -> R | UserError:
    try:
        return function(item)
    except UserError as error:
        return error


def _run(
    executor: Executor,
    function: Callable[[T], R],
    items: Sequence[T],
    window: int,
    name: Callable[[T], str],
) -> Iterable[tuple[int, R | UserError]]:
    """Keep ``window`` items in flight, so that a dead worker leaves few suspects."""
    waiting = iter(enumerate(items))
    running: dict[Future[Any], int] = {}
    workers: dict[int, Any] = {}
    while True:
        for i, item in waiting:
            running[executor.submit(_attempt, function, item)] = i
            # The executor forgets its processes when one dies; their exit codes tell why.
            workers.update(getattr(executor, "_processes", None) or {})
            if len(running) >= window:
                break
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            try:
                result = future.result()
            except BrokenProcessPool:
                suspects = ", ".join(name(items[i]) for i in running.values())
                raise _dead_worker(workers.values(), suspects) from None
            yield running.pop(future), result


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


def _gather(
    results: Iterable[tuple[int, Any]],
    items: Sequence[T],
    label: str,
    name: Callable[[T], str],
) -> list[Any]:
    gathered: list[Any] = [None] * len(items)
    for i, result in progress(results, label, total=len(items)):
        gathered[i] = result
    failed = [i for i, result in enumerate(gathered) if isinstance(result, UserError)]
    if len(failed) == 1:
        raise gathered[failed[0]]
    if failed:
        blocks = "\n".join(f"[{name(items[i])}] {gathered[i]}" for i in failed)
        raise UserError(f"{label}: {len(failed)} of {len(items)} cases failed\n{blocks}")
    return gathered
