"""Runs that can be repeated bit for bit on a GPU too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, cast

import torch

from segkit.errors import UserError
from segkit.runtime import log


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool, *, budget_seconds: float | None) -> Iterator[None]:
    """Let torch use only algorithms whose results never vary, where the recipe wants it.

    On a CPU, with the same number of threads, they never do. On GPUs some sums are otherwise
    accumulated in whatever order they finish, and convolutions are chosen by timing them.

    Args:
        wanted: ``deterministic`` of the recipe; if false nothing changes.
        budget_seconds: The time budget: with one a run cannot be repeated, which is told.

    Raises:
        UserError: an operation of the network has no such algorithm.
    """
    if not wanted:
        yield
        return
    if budget_seconds is not None:
        log.warning("deterministic: how many steps fit into a time budget varies all the same")
    # Read by cuBLAS when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    before = cudnn.benchmark, cudnn.deterministic
    strict, filling = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written; filling it would cost time.
    memory.fill_uninitialized_memory = False
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = f"this network cannot be trained deterministically: {str(error).splitlines()[0]}"
        raise UserError(what, where="recipe key deterministic", fix="leave it out") from error
    finally:
        torch.use_deterministic_algorithms(strict)
        memory.fill_uninitialized_memory = filling
        cudnn.benchmark, cudnn.deterministic = before
