"""``segkit COMMAND``: parses, calls one function of ``segkit.workflows``, reports errors.

Nothing heavy is imported until a command runs, so that help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import inspect
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

import segkit
from segkit.cli.commands import COMMANDS, add_arguments
from segkit.errors import UserError, nearest
from segkit.options import Common, make_options

EXIT_DONE, EXIT_FAULT, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Wrong usage ends with exit code 2, one line, and the nearest command where there is one."""

    def error(self, message: str) -> NoReturn:
        """Report wrong usage."""
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        if "invalid choice" in message and command and command not in COMMANDS:
            message = f"unknown command {command!r}; {nearest(command, COMMANDS)}"
        fix = f"see '{self.prog} --help'"
        if "required: DATASET" in message and len(sys.argv) > 3:
            fix += "; DATASET goes before options that take several values"
        self.exit(EXIT_USAGE, f"error: {message}\nfix:   {fix}\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = Parser(prog="segkit", description=segkit.__doc__)
    parser.add_argument("--version", action="version", version=f"segkit {segkit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (command, _) in COMMANDS.items():
        summary = inspect.cleandoc(command.__doc__ or "")
        add_arguments(commands.add_parser(name, help=summary, description=summary), command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: Of the command line; None takes this program's, and ends it without waiting for
            threads that an error or Ctrl-C has left at work.
    """
    code = _command_line(arguments)
    if arguments is not None:
        return code
    # At its end a program need not look through all there is for garbage: 0.2 s with torch.
    gc.freeze()
    if any(map(_would_be_waited_for, threading.enumerate())):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _would_be_waited_for(thread: threading.Thread) -> bool:
    return thread is not threading.main_thread() and not thread.daemon


def _command_line(arguments: Sequence[str] | None) -> int:
    started = time.monotonic()
    parsed = vars(build_parser().parse_args(arguments))
    name = parsed.pop("command")
    verbosity = -1 if parsed.get("quiet") else int(parsed.get("verbose", False))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        options = make_options(COMMANDS[name][0], parsed, started=started)
        return _run(name, options, verbosity, alone=arguments is None)
    except UserError as error:
        return _fail(str(error), error.exit_code, verbosity)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED, verbosity)
    except BrokenPipeError:
        # The reader left (as in "| head"); nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAULT
    except Exception as error:
        return _fail(str(_explain(error)), EXIT_FAULT, verbosity)


def _run(name: str, options: Common, verbosity: int, *, alone: bool) -> int:
    """Run a command; ``alone`` in this program, which ends with it."""
    from segkit.runtime import set_up_logging

    set_up_logging(verbosity)
    with _all_is_kept() if alone else contextlib.nullcontext():
        module = importlib.import_module(f"segkit.workflows.{COMMANDS[name][1]}")
    outcome = getattr(module, name)(options)
    if outcome.text:
        sys.stdout.write(outcome.text.rstrip("\n") + "\n")
        sys.stdout.flush()
    return EXIT_DONE if outcome.ok else EXIT_FAULT


@contextlib.contextmanager
def _all_is_kept() -> Iterator[None]:
    """Look for no garbage meanwhile, nor ever among what is made: modules stay to the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _explain(error: Exception) -> UserError:
    """Say what an exception from outside segkit means to the user."""
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return UserError("out of memory", fix="use -j 1, or a machine with more memory")
    if kind == "OutOfMemoryError":  # torch's, which is not imported here
        fix = "set a smaller sampling.batch_size or sampling.patch_size, or use --device cpu"
        return UserError("the GPU is out of memory", fix=fix)
    if isinstance(error, OSError) and error.strerror:
        fix = "check the path, its permissions and the free space"
        return UserError(error.strerror, where=error.filename, fix=fix)
    fix = "run again with -v and report the traceback as an issue of segkit"
    return UserError(f"unexpected {kind}: {error}", fix=fix)


def _fail(message: str, code: int, verbosity: int) -> int:
    if verbosity > 0:
        traceback.print_exc()
    sys.stderr.write(message + "\n")
    return code


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
