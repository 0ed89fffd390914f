"""Reproducible computation: training and solving give the same bytes everywhere.

On a CPU the bits of a sum depend on how it was shared out among threads, so there is one: docs/performance.md says
which operations differ and what it costs. On a GPU deterministic algorithms run in full float32. What stays is the
instruction set and the versions of the libraries: docs/methods.md names it.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS reads it once, when a process first uses it

_Made = TypeVar("_Made")


def allow_reproducible_gpu() -> None:
    """Give cuBLAS the fixed workspace that deterministic products need; before the first CUDA call of a process."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def reproducible() -> Iterator[None]:
    """Hold torch and the BLAS of numpy at one thread, deterministic, without TF32; leaving puts back what was.

    The settings are the process's: of several threads inside, the last to leave puts them back.
    """
    import torch

    with _lock:
        _inside.append(_held() if not _inside else ExitStack())
    torch.set_num_threads(1)  # each thread has a number of its own
    try:
        yield
    finally:
        with _lock:
            _inside.pop().close()  # the last one out puts back what was


_lock = threading.Lock()
_inside: list[ExitStack] = []  # the first one holds what is to be put back


def _held() -> ExitStack:
    import torch
    from threadpoolctl import threadpool_limits

    cudnn = torch.backends.cudnn
    stack = ExitStack()
    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(1)
    stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
    stack.enter_context(cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False))
    stack.enter_context(_deterministic(warn_only=False))
    return stack


def seeded(make: Callable[[], _Made], seed: int) -> _Made:
    """Return what `make` returns, with the process's random generators at `seed` meanwhile.

    Methods draw from generators of their own; this is for code of others that does not. Where an operation has no
    deterministic form on this device, it is said, and made all the same.
    """
    try:
        return _drawn(make, seed)
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        log.warning("this training is not bit-reproducible on this device: %s", str(error).split(". ")[0])
    with _deterministic(warn_only=True):
        return _drawn(make, seed)


def _drawn(make: Callable[[], _Made], seed: int) -> _Made:
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            return make()
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _deterministic(warn_only: bool) -> Iterator[None]:
    """Use deterministic algorithms, or warn of those that are not."""
    import torch

    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
