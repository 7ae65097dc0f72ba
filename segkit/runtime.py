"""What a run stands on: device, CPUs and memory, signals, logging, progress."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from segkit.errors import UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

log = logging.getLogger("segkit")
SECONDS_BETWEEN_LINES = 30.0


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
    items: Iterable[T],
    label: str,
    *,
    total: int | None = None,
    closing_line: bool = True,
    seconds_left: Callable[[], float | None] = lambda: None,
) -> Iterable[T]:
    """Iterate with a tqdm bar on a terminal, or a plain line now and then otherwise.

    Args:
        items: What to iterate over.
        label: What the bar or line begins with.
        total: How many items there are.
        closing_line: Say at the end how many there were.
        seconds_left: Where time rules and not the number of items: what is left of it. Else None.
    """
    if sys.stderr.isatty() and log.isEnabledFor(logging.INFO):
        from tqdm import tqdm

        # A bar that will be wiped is not worth showing for what is over at once.
        brief: dict[str, Any] = {} if closing_line else {"leave": False, "delay": 1}
        if seconds_left() is not None:
            brief["bar_format"] = "{desc}: {n_fmt} of at most {total_fmt} [{elapsed}{postfix}]"
        bar = tqdm(items, desc=label, total=total, dynamic_ncols=True, **brief)
        for item in bar:
            if (left := seconds_left()) is not None:
                bar.set_postfix_str(f"{max(left, 0):.0f} s left", refresh=False)
            yield item
        return
    count, begun = 0, time.monotonic()
    told = begun
    for item in items:
        yield item
        count += 1
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            log.info("%s: %s", label, _so_far(count, total, told - begun, seconds_left()))
    if closing_line:
        log.info("%s: %d of %d", label, count, count if total is None else total)


def _so_far(count: int, total: int | None, seconds: float, left: float | None) -> str:
    if left is not None:
        return (
            f"{count} of {'?' if total is None else f'at most {total}'}, {max(left, 0):.0f} s left"
        )
    if total is None:
        return f"{count} of ?"
    return f"{count} of {total}, {seconds / count * (total - count):.0f} s left"


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


class StopRequested(KeyboardInterrupt):
    """A signal that waited for a good moment."""


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until the yielded function is called, which then raises.

    A second signal acts at once. Outside the main thread signals are left as they are.

    Raises:
        StopRequested: from the yielded function, after a signal.
        KeyboardInterrupt: anywhere, after a second one.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        log.warning("stopping after this step; once more stops at once, and loses what is unsaved")

    def check() -> None:
        if received:
            raise StopRequested

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What CPUs had done at a moment."""

    at: float
    """Seconds, monotonic."""
    own: float
    """Seconds of CPU time that this process had used."""
    ticks: dict[int, list[int]]
    """Ticks that every CPU had spent, as columns of /proc/stat."""


def idle_cpus() -> float:
    """CPUs of this process that other programs leave idle, or use at low priority.

    Looks back to when segkit was imported if that was a moment ago, as when a command starts;
    otherwise waits for a moment. Where the system does not tell, all of them.
    """
    count, before = cpu_count(), _FIRST_LOOK
    try:
        cpus = os.sched_getaffinity(0)
        since = 0.0 if before is None else time.monotonic() - before.at
        if before is None or not _SECONDS_OF_LOOKING < since < _MOST_SECONDS_BACK:
            before = _look()
            time.sleep(_SECONDS_OF_LOOKING)
        after = _look()
        idle, total = idle_time(before.ticks, after.ticks, cpus)
        left = idle + (after.own - before.own) * os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, LookupError, AttributeError):
        return count
    return min(count, len(cpus) * left / total) if total else count


def _look() -> _Look:
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    found = {name[0].removeprefix("cpu"): name[1:9] for name in lines if name[0].startswith("cpu")}
    ticks = {int(cpu): [*map(int, spent)] for cpu, spent in found.items() if cpu}
    return _Look(at=time.monotonic(), own=time.process_time(), ticks=ticks)


def idle_time(
    before: Mapping[int, list[int]], after: Mapping[int, list[int]], cpus: Iterable[int]
) -> tuple[int, int]:
    """Return the ticks that CPUs were idle, waited or worked at low priority, and all ticks.

    Args:
        before: CPU -> ticks spent on user, nice, system, idle, iowait, irq, softirq, steal.
        after: The same later.
        cpus: Which ones count.
    """
    spent = [[b - a for a, b in zip(before[cpu], after[cpu], strict=True)] for cpu in cpus]
    return sum(ticks[1] + ticks[3] + ticks[4] for ticks in spent), sum(map(sum, spent))


_SETTING_THREADS = threading.Lock()


def limit_torch_threads(count: int) -> None:
    """Say how many threads torch uses for what the calling thread asks of it, and no other.

    Every thread has its own number, but threads to come take the last that was set anywhere. While
    the interpreter ends, when no thread can be made to set that, nothing is changed.
    """
    import torch

    def keep_common() -> None:
        common = torch.get_num_threads()
        known.set()
        changed.wait()
        torch.set_num_threads(common)

    known, changed = threading.Event(), threading.Event()
    with _SETTING_THREADS:
        another = threading.Thread(target=keep_common, daemon=True)
        try:
            another.start()
        except RuntimeError:
            return
        known.wait()
        # Asked for the first time, a thread takes the common number.
        torch.get_num_threads()
        torch.set_num_threads(count)
        changed.set()
        another.join()


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in the calling thread alone meanwhile."""
    import torch

    before = torch.get_num_threads()
    limit_torch_threads(1)
    try:
        yield
    finally:
        limit_torch_threads(before)


def prepare_torch(others: Literal["yield", "tell", "ignore"] = "yield") -> None:
    """Set torch up for this machine: threads as CPUs allow, kept memory, fast convolutions.

    Threads that have to share their CPUs with other programs wait for one another at every
    operation: on 2 CPUs beside one busy program, 1 thread trains ten times as fast as 2.

    Args:
        others: What to do about other programs that keep CPUs busy now. ``yield`` uses as many
            threads as there are idle CPUs, which is told. ``tell`` uses all, and tells what would
            be faster: the number of threads decides the last bits of sums. ``ignore`` does not
            look.
    """
    import torch

    _keep_large_blocks()
    now = torch.get_num_threads()
    most = _REDUCED.get(now, min(now, cpu_count()))
    threads = most
    if most > 1 and others != "ignore":
        threads = max(1, min(most, round(idle_cpus())))
    if threads < most and others == "yield":
        if threads != now:
            text = "other programs keep %d of %d CPUs busy: using %d"
            log.info(text, most - threads, most, threads)
    elif threads < most:
        text = "other programs keep %d of %d CPUs busy; OMP_NUM_THREADS=%d may be much faster"
        log.warning(text, most - threads, most, threads)
        threads = most
    torch.set_num_threads(threads)
    _REDUCED.clear()
    if threads < most:
        _REDUCED[threads] = most
    torch.backends.cudnn.benchmark = True


_REDUCED: dict[int, int] = {}
"""Threads in use because others keep CPUs busy -> threads without them."""


def _keep_large_blocks() -> None:
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
_SECONDS_OF_LOOKING, _MOST_SECONDS_BACK = 0.15, 5.0
_FIRST_LOOK: _Look | None = None
with contextlib.suppress(OSError, ValueError):
    _FIRST_LOOK = _look()


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
