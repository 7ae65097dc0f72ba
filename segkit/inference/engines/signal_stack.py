"""The stack on which signal handlers run, kept as it is while somebody else replaces it."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the calling thread its alternative signal stack back, or none, as it was before.

    OpenVINO (2026.4) installs one with every model it compiles, and takes it back with the model.
    Where models go in another order than they came, the one that stays is gone from memory, and
    the next signal, such as Ctrl-C, ends the program with SIGSEGV.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
