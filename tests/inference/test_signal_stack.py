"""The signal stack of a thread is what it was, whoever replaces it."""

import ctypes
import sys

import pytest

from segkit.inference.engines.signal_stack import _Stack, signal_stack_kept

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signal stacks are those of Linux")
SIZE = 1 << 16


def replace_stack(new):
    """Install a stack, or none; returns the one before."""
    before = _Stack()
    given = None if new is None else ctypes.byref(new)
    assert ctypes.CDLL(None).sigaltstack(given, ctypes.byref(before)) == 0
    return before


def a_stack(memory):
    return _Stack(place=ctypes.addressof(memory), flags=0, size=SIZE)


def test_the_stack_comes_back_even_after_an_error():
    own, others = ctypes.create_string_buffer(SIZE), ctypes.create_string_buffer(SIZE)
    before = replace_stack(a_stack(own))
    try:
        with pytest.raises(ValueError, match="failed"), signal_stack_kept():  # noqa: PT012
            replace_stack(a_stack(others))
            raise ValueError("failed")
        assert replace_stack(None).place == ctypes.addressof(own)
    finally:
        replace_stack(before)
