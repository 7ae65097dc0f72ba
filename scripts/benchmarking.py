"""What the benchmarks share: sides measured in turn, their time and memory, and one table of all.

The peer is nnU-Net v2 in a virtual environment of its own, with segkit installed beside it, so that
both run on the same torch (``scripts/setup_peer FOLDER`` makes it). Every measurement is a process
of its own. What is measured inside a process reports itself: a benchmark starts itself again with
``--side NAME`` in the peer's environment, and the child prints one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
RESULTS = REPOSITORY / "docs" / "benchmarks.json"
TABLE = REPOSITORY / "docs" / "benchmarks.md"
_REPORT = "MEASURED "
_INTERVAL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement of one side."""

    seconds: float
    peak_bytes: int
    """Of the process tree, or above the start for what is measured inside a process."""
    result: dict[str, Any] = field(default_factory=dict)
    """What else a child reported."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: segkit and its peer on the same input."""

    what: str
    segkit: Sequence[Sample]
    peer: Sequence[Sample]
    wanted: float | None = None
    """Ratio of the times that is asked for."""
    wanted_memory: float | None = None
    """Ratio of the peaks of memory that is asked for."""
    equal: str = ""
    """How far the results agree."""
    floor: str = ""
    """What the machine could do at best, and how near this comes."""


def parse(description: str | None, *, repeats: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peer = os.environ.get("SEGKIT_PEER")
    parser.add_argument(
        "--peer",
        type=Path,
        default=None if peer is None else Path(peer),
        help="virtual environment with nnunetv2 and segkit (scripts/setup_peer makes it); "
        "$SEGKIT_PEER",
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements of each side")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real datasets")
    parser.add_argument("--no-save", action="store_true", help="leave docs/benchmarks.* alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser


def program(options: argparse.Namespace, name: str) -> str:
    """Return a program of the peer's environment: ``python``, ``segkit``, ``nnUNetv2_predict``."""
    if options.peer is None:
        sys.exit("--peer FOLDER is missing (or set SEGKIT_PEER); scripts/setup_peer makes one")
    path = options.peer.resolve() / "bin" / name
    if not path.exists():
        sys.exit(f"{path} does not exist; scripts/setup_peer {options.peer} makes it")
    return str(path)


def alternate(
    sides: Mapping[str, Callable[[], Sample]], repeats: int
) -> dict[str, tuple[Sample, ...]]:
    """Measure every side in turn, ``repeats`` times round, saying each as it comes."""
    found: dict[str, list[Sample]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, measure in sides.items():
            sample = measure()
            found[name].append(sample)
            line = f"  {turn + 1}/{repeats} {name}: {sample.seconds:.3f} s, {_mib(sample)} MiB"
            print(line, file=sys.stderr, flush=True)
    return {name: tuple(samples) for name, samples in found.items()}


def alternate_commands(
    commands: Mapping[str, Callable[..., Sample]], repeats: int
) -> dict[str, tuple[Sample, ...]]:
    """Time commands in turn while nobody looks at them, then watch the memory of each once.

    Args:
        commands: :func:`run` with everything but ``watched``.
        repeats: How often each is timed.
    """
    unwatched = {name: partial(command, watched=False) for name, command in commands.items()}
    watched = {name: partial(command, watched=True) for name, command in commands.items()}
    times, memory = alternate(unwatched, repeats), alternate(watched, 1)
    return {
        name: tuple(replace(sample, peak_bytes=memory[name][0].peak_bytes) for sample in samples)
        for name, samples in times.items()
    }


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    watched: bool = True,
) -> Sample:
    """Run a command; returns its wall time and the peak memory of its process tree.

    Watching walks the page tables of the tree many times a second, which slows down what computes
    on all cores: what reports its own peak is not watched.

    Raises:
        SystemExit: it failed; its output is shown.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with _watched_memory(process.pid) if watched else contextlib.nullcontext([0]) as peak:
        output, _ = process.communicate()
    seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{output}\nfailed ({process.returncode})")
    reports = [line for line in output.splitlines() if line.startswith(_REPORT)]
    result = json.loads(reports[-1].removeprefix(_REPORT)) if reports else {}
    return Sample(
        seconds=result.pop("seconds", seconds),
        peak_bytes=result.pop("peak_bytes", max(peak)),
        result=result,
    )


def run_side(
    options: argparse.Namespace, side: str, *arguments: object, env: Mapping[str, str] | None = None
) -> Sample:
    """Start this benchmark again in the peer's environment, to measure one side inside it."""
    script = Path(sys.argv[0]).resolve()
    command = [program(options, "python"), str(script), "--side", side]
    return run([*command, "--data", options.data, *map(str, arguments)], env=env, watched=False)


@contextlib.contextmanager
def measured(**more: Any) -> Iterator[dict[str, Any]]:
    """Measure the block inside a child and report it: seconds, and peak memory above the start.

    What is put into the yielded dictionary is reported too (``Sample.result``).
    """
    result: dict[str, Any] = dict(more)
    start = _reset_peak()
    begun = time.perf_counter()
    yield result
    # Whoever took the time of several runs on its own has put their median here.
    result.setdefault("seconds", time.perf_counter() - begun)
    result["peak_bytes"] = max(0, _status_bytes("VmHWM") - start)
    print(_REPORT + json.dumps(result), flush=True)


def median_seconds(function: Callable[[], object], repeats: int, *, warm_up: int = 1) -> float:
    """Return the median time of a call, after some that are not counted."""
    for _ in range(warm_up):
        function()
    return statistics.median(_seconds(function) for _ in range(repeats))


def _seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def save(options: argparse.Namespace, name: str, rows: Sequence[Row], *notes: str) -> None:
    """Print the rows; put them into docs/benchmarks.json and write docs/benchmarks.md anew."""
    section = {
        "machine": machine(),
        "versions": versions(options),
        "rows": [asdict(row) for row in rows],
        "notes": list(notes),
    }
    print("\n".join(_section(name, section)))
    if options.no_save:
        return
    everything = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    everything[name] = section
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(dict(sorted(everything.items())), indent=1) + "\n")
    TABLE.write_text("\n".join(_page(everything)) + "\n")


def machine() -> str:
    """Describe the processor, cores, memory and accelerator."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((x.split(":")[1].strip() for x in cpuinfo.splitlines() if "model name" in x), "?")
    extensions = [x for x in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if x in cpuinfo.split()]
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores of {model} ({', '.join(extensions)}), {memory:.0f} GiB"


def versions(options: argparse.Namespace) -> str:
    """Name the versions of Python and of the packages that matter, in the peer's environment."""
    names = ("segkit", "nnunetv2", "torch", "openvino", "numpy", "scipy")
    code = (
        "from importlib.metadata import Distribution as D, version as v; "
        f"print(*(f'{{n}} {{v(n)}}' for n in {names} if any(D.discover(name=n))), sep=', ')"
    )
    command = [program(options, "python"), "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"Python {platform.python_version()}, {found.strip()}"


def ratio(row: Row | Mapping[str, Any], key: str = "seconds") -> float:
    """How many times as much the peer takes, by the medians."""
    content = row if isinstance(row, Mapping) else asdict(row)
    segkit, peer = (_median(content[side], key) for side in ("segkit", "peer"))
    return peer / max(segkit, 1e-9)


def _median(samples: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.median(sample[key] for sample in samples)


def _page(everything: Mapping[str, Any]) -> list[str]:
    lines = [
        "# Benchmarks: segkit and nnU-Net v2",
        "",
        "Written by `scripts/bench_all` (or one `scripts/bench_*.py`): both sides on the same",
        "input, in turn, in one run, with the same torch. Times are medians (smallest to largest);",
        "memory is the peak of the process tree, or above the start where one function is",
        "measured inside a process. A ratio above 1 says how many times as much the peer takes.",
    ]
    for name, section in sorted(everything.items()):
        lines += ["", *_section(name, section)]
    return lines


def _section(name: str, section: Mapping[str, Any]) -> list[str]:
    head = ["what", "segkit", "nnU-Net", "ratio", "memory", "ratio", "results"]
    lines = [f"## {name}", "", f"{section['machine']}; {section['versions']}.", ""]
    lines += [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in section["rows"]]
    floors = [f"- {row['what']}: {row['floor']}" for row in section["rows"] if row["floor"]]
    notes = [f"- {note}" for note in section["notes"]]
    return [*lines, "", *floors, *notes] if floors or notes else lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Mapping[str, Any]) -> list[str]:
    if not row["peer"]:
        return [row["what"], _times(row["segkit"]), "-", "-", _memory(row["segkit"]), "-",
                row["equal"]]  # fmt: skip
    # Sides too quick to be looked at have no memory to compare.
    unmeasured = not all(_median(row[side], "peak_bytes") for side in ("segkit", "peer"))
    memory = "-" if unmeasured else f"{_memory(row['segkit'])} / {_memory(row['peer'])} MiB"
    return [
        row["what"],
        _times(row["segkit"]),
        _times(row["peer"]),
        _wanted(ratio(row), row["wanted"]),
        memory,
        "-" if unmeasured else _wanted(ratio(row, "peak_bytes"), row["wanted_memory"]),
        row["equal"],
    ]


def _times(samples: Sequence[Mapping[str, Any]]) -> str:
    seconds = [sample["seconds"] for sample in samples]
    low, high = min(seconds), max(seconds)
    return f"{_number(statistics.median(seconds))} s ({_number(low)}-{_number(high)})"


def _wanted(found: float, wanted: float | None) -> str:
    return f"{_number(found)}" + (f" (asked: {wanted:g})" if wanted else "")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _memory(samples: Sequence[Mapping[str, Any]]) -> str:
    return f"{_median(samples, 'peak_bytes') / 2**20:.0f}"


def _mib(sample: Sample) -> str:
    return f"{sample.peak_bytes / 2**20:.0f}"


@contextlib.contextmanager
def _watched_memory(pid: int) -> Iterator[list[int]]:
    """Keep the memory of a process and all it starts, looked at every so often.

    A look walks through the memory of the processes, which have to wait: 52 predictions of 23 s
    took 28 s with 20 looks a second. The longer it takes, the rarer they become.
    """
    peak, stop, begun = [0], threading.Event(), time.perf_counter()

    def watch() -> None:
        while not stop.wait(min(max(_INTERVAL_SECONDS, (time.perf_counter() - begun) / 50), 0.5)):
            peak.append(sum(_proportional_bytes(member) for member in _tree(pid)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, task.read_text().split())
    return [pid, *(member for child in children for member in _tree(child))]


def _proportional_bytes(pid: int) -> int:
    """Memory of a process; pages it shares count in equal parts to all that share them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> int:
    """Forget the peak so far; returns what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
