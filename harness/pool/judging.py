"""Running an evaluator on some images: in this process, watched, or in its own, which may hang or die."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from harness.evaluator import Evaluator, SetEvaluator
from harness.pool.tasks import Config, fingerprint
from harness.pool.toolbox import Toolbox
from harness.pool.worker_cache import Holding
from harness.records import ImageKey, ScoreItem, ScoreRow, Verdict

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # that a new process may take at least, with what it loads
TICK_SECONDS = 1.0  # how often a wait looks at its limit
FIRST_LIMITS = 4  # limits that the first answer may take: it waits for the weights
MAX_DEATHS, MAX_SILENCES = 5, 3  # in a row; then the evaluator is at fault, whatever the image

_T = TypeVar("_T")


class NoAnswer(Exception):
    """An evaluator did not answer within its limit."""


class Died(Exception):
    """An evaluator ended the process that it ran in."""


@dataclass(frozen=True)
class Judged:
    """What came of some images: rows, or features (N, D) float32 of `keys` and rows for the images without any."""

    rows: tuple[ScoreRow, ...]
    keys: tuple[ImageKey, ...] = ()
    features: np.ndarray | None = None

    @staticmethod
    def join(parts: Sequence[Judged]) -> Judged:
        blocks = [part.features for part in parts if part.features is not None and len(part.keys)]
        rows = tuple(row for part in parts for row in part.rows)
        keys = tuple(key for part in parts for key in part.keys)
        return Judged(rows, keys, np.concatenate(blocks) if blocks else None)


def judge(tools: Toolbox, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> Judged:
    """Judge images, or extract their features."""
    if not isinstance(evaluator, SetEvaluator):
        return Judged(tuple(tools.score(evaluator, requests, batch_size)))
    keys, features, errors = tools.extract(evaluator, requests, batch_size)
    return Judged(tuple(ScoreRow(k.prompt_id, k.repeat, error=e) for k, e in errors.items()), tuple(keys), features)


def unjudged(evaluator: Evaluator, requests: Iterable[ScoreItem[str]], error: str) -> Judged:
    """Return the rows of images that could not be judged."""
    verdict = Verdict.UNKNOWN if evaluator.kind == "verdict" else None
    return Judged(tuple(ScoreRow(one.key.prompt_id, one.key.repeat, verdict, error=error) for one in requests))


class Patience:
    """How long to wait for an answer: `seconds`, or ten times the slowest so far; more before the first one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slowest: float | None = None

    @property
    def limit(self) -> float:
        if self._slowest is None:
            return FIRST_LIMITS * self._seconds
        return max(self._seconds, 10 * self._slowest)

    def learn(self, seconds: float) -> None:
        """Take note of how long an answer took."""
        self._slowest = max(seconds, self._slowest or 0.0)


@dataclass
class _Call(Generic[_T]):
    work: Callable[[], _T]
    done: threading.Event
    value: _T | None = None
    error: BaseException | None = None


class Watched:
    """A thread that works for another one, and is left alone where it does not answer."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call[Any] | None] | None = None

    def call(self, work: Callable[[], _T], limit: float, tick: Callable[[], None]) -> _T:
        """Return what `work` returns or raise what it raises; `tick` is called meanwhile. Raises NoAnswer."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve_calls, args=(self._calls,), name="evaluator", daemon=True).start()
        call, end = _Call(work, threading.Event()), time.monotonic() + limit
        self._calls.put(call)
        while not call.done.wait(min(TICK_SECONDS, max(end - time.monotonic(), 0.01))):
            if time.monotonic() >= end:
                self._calls = None  # the thread ends when the work does, if ever
                raise NoAnswer(f"no answer for {limit:.0f} s")
            tick()
        if call.error is not None:
            raise call.error
        return cast(_T, call.value)

    def close(self) -> None:
        """End the thread; one that hangs ends with the process."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve_calls(calls: queue.SimpleQueue[_Call[Any] | None]) -> None:
    while (call := calls.get()) is not None:
        try:
            call.value = call.work()
        except BaseException as error:  # raised again where it was asked for
            call.error = error
        call.done.set()
        del call


class JudgeApart:
    """One evaluator in its own process: only an image on which it hangs or crashes is unknown."""

    def __init__(self, tools: Toolbox, config: Config, device: str, threads: int, patience: Patience,
                 tick: Callable[[], None]) -> None:  # fmt: skip
        self._start = (tools, dict(config), device, threads)
        self._patience = patience
        self._tick = tick
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._deaths = self._silences = 0  # since the last answer
        self._last = ""

    def judge(self, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int) -> Judged:
        """Judge images. `evaluator` need not be set up; it says what kind of answer there is. Raises what it raises."""
        if self._is_hopeless:
            return unjudged(evaluator, requests, self._hopeless())
        try:
            return self._ask(requests, batch_size)
        except (Died, NoAnswer) as error:
            self._strike(error)
            if len(requests) == 1:
                return unjudged(evaluator, requests, f"the evaluator {error}")
            log.warning("an evaluator %s on %d images; trying them one by one", error, len(requests))
        return Judged.join([self.judge(evaluator, [one], batch_size) for one in requests])

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    @property
    def _is_hopeless(self) -> bool:
        return self._deaths >= MAX_DEATHS or self._silences >= MAX_SILENCES

    def _hopeless(self) -> str:
        return f"not judged: the evaluator {self._last}, {self._deaths + self._silences} times in a row"

    def _strike(self, error: Died | NoAnswer) -> None:
        self._last = str(error)
        if isinstance(error, Died):
            self._deaths += 1
        else:
            self._silences += 1

    def _ask(self, requests: Sequence[ScoreItem[str]], batch_size: int) -> Judged:
        started = time.monotonic()
        try:
            answer = None
            if self._process is None:
                answer = self._answer(self._begin(), max(START_SECONDS, self._patience.limit))
                started = time.monotonic()
            if answer is not None:  # it could not be set up
                self.close()
            elif self._pipe is not None:
                self._pipe.send((tuple(requests), batch_size))
                answer = self._answer(self._pipe, self._patience.limit)
        except (EOFError, OSError):
            raise Died(f"crashed its process ({self._end_of_process()})") from None
        except BaseException:
            self.close()
            raise
        if isinstance(answer, Exception):
            raise answer
        self._patience.learn(time.monotonic() - started)
        self._deaths = self._silences = 0
        return cast(Judged, answer)

    def _answer(self, pipe: Connection, limit: float) -> Any:
        started = time.monotonic()
        while not pipe.poll(min(TICK_SECONDS, limit)):
            if time.monotonic() - started > limit:
                raise NoAnswer(f"did not answer for {time.monotonic() - started:.0f} s")
            self._tick()
        return pipe.recv()

    def _begin(self) -> Connection:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_judge_apart, args=(theirs, *self._start), name="judge", daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe

    def _end_of_process(self) -> str:
        """Close what is left of a process that ended; return how it did."""
        if self._process is not None:
            self._process.join(TICK_SECONDS)
        code = (self._process.exitcode if self._process else None) or 0
        self.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Judges:
    """A worker's evaluators: at work in this process, or apart where one did not answer or killed a worker before."""

    def __init__(self, tools: Toolbox, holding: Holding, threads: int, hang_seconds: float, tick: Callable[[], None],
                 gate: AbstractContextManager[Any]) -> None:  # fmt: skip
        self._tools, self._holding, self._threads = tools, holding, threads
        self._hang_seconds = hang_seconds
        self._tick = tick
        self._gate = gate
        self._watched = Watched()
        self._patience: dict[str, Patience] = {}
        self._apart: dict[str, JudgeApart] = {}

    def ready(self, config: Config, device: str, apart: bool = False) -> Evaluator:
        """Return the evaluator, set up where it works in this process. Raises what setting it up raises."""
        key = fingerprint(config)
        if apart or key in self._apart:
            return self._move_apart(config, device)

        held = self._holding.held_evaluator(config)
        if held is not None:  # nothing is loaded: no reason to wait for the end of a batch
            return held
        load = lambda: self._holding.evaluator(config, device)  # noqa: E731
        try:
            with self._gate:
                return self._watched.call(load, self._patience_of(key).limit, self._tick)
        except NoAnswer as error:
            log.warning("evaluator %s, loading: %s; it continues in its own process", config.get("name"), error)
            return self._move_apart(config, device)

    def judge(self, config: Config, evaluator: Evaluator, requests: Sequence[ScoreItem[str]], batch_size: int,
              device: str) -> Judged:  # fmt: skip
        """Judge images, or extract their features. Raises what the evaluator raises of its own."""
        key = fingerprint(config)
        if key not in self._apart:
            try:
                return self.watch(config, lambda: judge(self._tools, evaluator, requests, batch_size))
            except NoAnswer as error:
                log.warning("evaluator %s: %s; it continues in its own process", config.get("name"), error)
                self._move_apart(config, device)
        return self._apart[key].judge(evaluator, requests, batch_size)

    def watch(self, config: Config, work: Callable[[], _T]) -> _T:
        """Let an evaluator do something in this process. Raises NoAnswer."""
        patience, started = self._patience_of(fingerprint(config)), time.monotonic()
        value = self._watched.call(work, patience.limit, self._tick)
        patience.learn(time.monotonic() - started)
        return value

    def close(self) -> None:
        """End threads and processes."""
        self._watched.close()
        for one in self._apart.values():
            one.close()
        self._apart.clear()

    def _move_apart(self, config: Config, device: str) -> Evaluator:
        key = fingerprint(config)
        if key not in self._apart:
            self._holding.forget_evaluator(config)
            patience = Patience(self._hang_seconds)
            self._apart[key] = JudgeApart(self._tools, config, device, self._threads, patience, self._tick)
        return self._tools.bare_evaluator(config)

    def _patience_of(self, key: str) -> Patience:
        return self._patience.setdefault(key, Patience(self._hang_seconds))


def _judge_apart(pipe: Connection, tools: Toolbox, config: Config, device: str, threads: int) -> None:
    """Answer requests until the pipe ends: the other process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        tools.start(device, threads)
        evaluator = tools.evaluator(config, device)
    except Exception as error:  # raised again in the parent
        _send(pipe, error)
        return
    _send(pipe, None)
    while True:
        try:
            requests, batch_size = pipe.recv()
        except EOFError:
            return
        try:
            answer: Judged | Exception = judge(tools, evaluator, requests, batch_size)
        except Exception as error:  # as above
            answer = error
        _send(pipe, answer)


def _send(pipe: Connection, answer: Judged | Exception | None) -> None:
    try:
        pipe.send(answer)
    except Exception as error:  # an exception that cannot travel
        pipe.send(RuntimeError(f"{type(answer).__name__}: {answer} ({type(error).__name__})"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
