"""Checkpoints of interrupted trainings that are sound files with wrong contents: the training restarts, and says so.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from harness.training.loop_memory import Carried, LoopMemory, adam_step
from harness.training.training_state import signed

TOTAL = 6


class Loop:
    """A training of two tensors with a generator, an average and something drawn."""

    def __init__(self, folder: Path | None, name: str = "checkpoint") -> None:
        self.values = {"a": torch.ones(3, requires_grad=True), "b": torch.zeros(2, 2, requires_grad=True)}
        self.average, self.drawn = torch.zeros(3), torch.zeros(2, dtype=torch.int64)
        self.generator = torch.Generator().manual_seed(3)
        self.adam = torch.optim.AdamW(list(self.values.values()), lr=0.1)
        carried = Carried(self.generator, {"average": self.average}, {"drawn": self.drawn})
        self.memory = LoopMemory(folder, self.adam, self.values, carried, name)
        self.taken: list[int] = []

    def run(self, total: int = TOTAL, stop: int | None = None) -> Loop:
        with self.memory:
            for step in self.memory.remaining(total):
                if step == stop:
                    raise KeyboardInterrupt
                self.taken.append(step)
                self.drawn.copy_(torch.randint(9, (2,), generator=self.generator))
                noise = torch.randn(3, generator=self.generator)
                loss = (self.values["a"] * noise).square().sum() + (self.values["b"] - 1).square().sum()
                self.adam.zero_grad()
                loss.backward()
                adam_step(self.memory, self.adam, float(loss.detach()),
                          lambda: self.average.lerp_(self.values["a"].detach(), 0.5))
        return self

    @property
    def result(self) -> list[Any]:
        return [*(value.detach().tolist() for value in self.values.values()), self.average.tolist(), self.memory.losses]


def interrupted(folder: Path, stop: int = 3, total: int = TOTAL) -> Path:
    with pytest.raises(KeyboardInterrupt):
        Loop(folder).run(total, stop)
    return folder / "checkpoint.safetensors"


WHOLE = Loop(None).run().result


def test_a_sound_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    interrupted(tmp_path / "key")
    loop = Loop(tmp_path / "key").run()
    assert loop.taken == [3, 4, 5] and loop.result == WHOLE


def put(name: str, value: torch.Tensor):
    return lambda state: state | {name: value}


def without(*names: str):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(names)}


CHANGES = {
    "other shape": put("learned.a", torch.ones(1)), "a shape that broadcasts": put("learned.b", torch.ones(1, 2)),
    "other type": put("learned.a", torch.ones(3, dtype=torch.float16)),
    "nan": put("learned.a", torch.full((3,), torch.nan)),
    "infinity in the average": put("carried.average", torch.full((3,), torch.inf)),
    "missing tensor": without("learned.b"), "missing average": without("carried."), "missing draws": without("drawn."),
    "no optimiser": without("adam."), "half an optimiser": without("adam.0.exp_avg"), "no losses": without("losses"),
    "no generator": without("generator"), "a tensor too many": put("learned.c", torch.ones(1)),
    "beyond the end": put("losses", torch.ones(TOTAL + 1, dtype=torch.float64)),
    "far beyond the end": put("losses", torch.ones(10_000, dtype=torch.float64)),
    "at no step": put("losses", torch.ones(0, dtype=torch.float64)),
    "a loss that is no number": put("losses", torch.full((3,), torch.nan, dtype=torch.float64)),
    "losses in a square": put("losses", torch.ones(2, 2, dtype=torch.float64)),
    "one loss": put("losses", torch.tensor(1.0)),
    "losses of integers": put("losses", torch.ones(3, dtype=torch.int64)),
    "negative step": put("adam.0.step", torch.tensor(-3.0)),
    "no number of steps": put("adam.1.step", torch.tensor(torch.nan)),
    "many steps": put("adam.0.step", torch.ones(3)),
    "negative squares": put("adam.0.exp_avg_sq", -torch.ones(3)),
    "moments of others": put("adam.0.exp_avg", torch.ones(5)),
    "moments of a tensor that is not there": put("adam.7.step", torch.tensor(1.0)),
    "moments without a number": put("adam.x.step", torch.tensor(1.0)),
    "moments without a name": put("adam.", torch.tensor(1.0)),
    "moments of a huge number": put(f"adam.{'9' * 5000}.step", torch.tensor(1.0)),
    "an optimiser of another kind": put("adam.0.momentum_buffer", torch.ones(3)),
    "a generator of another length": put("generator", torch.zeros(7, dtype=torch.uint8)),
    "a generator of zeros": put("generator", torch.zeros(5056, dtype=torch.uint8)),
    "a generator of numbers": put("generator", torch.zeros(5056)), "nothing": lambda state: {},
}  # fmt: skip


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_wrong_contents_begin_the_training_anew_and_say_so(tmp_path: Path, caplog, name: str, signs: bool) -> None:
    """Also where whoever changed the tensors wrote the hash of his own."""
    file = interrupted(tmp_path / "key")
    state = CHANGES[name](load_file(file))
    save_file(state, file, signed(state, "key/checkpoint") if signs else None)
    with caplog.at_level(logging.WARNING):
        loop = Loop(tmp_path / "key").run()
    assert loop.taken == list(range(TOTAL)) and loop.result == WHOLE
    (said,) = caplog.messages
    assert "restarts" in said and "\n" not in said and str(file) in said


def test_a_changed_number_is_found_by_its_hash(tmp_path: Path, caplog) -> None:
    """Of right names, shapes and types: nothing else could tell it from what the training wrote."""
    file = interrupted(tmp_path / "key")
    metadata = signed(load_file(file), "key/checkpoint")
    save_file(load_file(file) | {"learned.a": torch.full((3,), 0.25)}, file, metadata)
    assert Loop(tmp_path / "key").run().result == WHOLE
    assert "do not match their hash" in caplog.text


def test_the_checkpoint_of_another_training_is_not_gone_on_from(tmp_path: Path, caplog) -> None:
    shutil.copytree(interrupted(tmp_path / "other").parent, tmp_path / "key")
    assert Loop(tmp_path / "key").run().taken == list(range(TOTAL))
    assert "belongs to another training" in caplog.text
    file = interrupted(tmp_path / "two")
    file.rename(file.with_name("checkpoint-1.safetensors"))  # of another direction of the same training
    assert Loop(tmp_path / "two", "checkpoint-1").run().taken == list(range(TOTAL))


def test_a_checkpoint_of_a_longer_training_is_beyond_the_end(tmp_path: Path, caplog) -> None:
    interrupted(tmp_path / "key", stop=5)
    loop = Loop(tmp_path / "key").run(total=4)
    assert loop.taken == [0, 1, 2, 3] and "at step 5 of 4" in caplog.text


FILES = {
    "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\n", "text": b"hello" * 100,
    "list": (2).to_bytes(8, "little") + b"[]", "deep": (6000).to_bytes(8, "little") + b"[" * 3000 + b"]" * 3000,
    "no shape": (9).to_bytes(8, "little") + b'{"a": {}}', "huge header": (2**60).to_bytes(8, "little") + b"{}",
    "metadata of another kind": save({"a": torch.ones(1)}, {"training": "[]"}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, "folder", "pipe", "cut"])
def test_files_that_are_no_checkpoint_begin_anew(tmp_path: Path, caplog, name: str) -> None:
    file = interrupted(tmp_path / "key")
    data = file.read_bytes()
    file.unlink()
    if name == "folder":
        file.mkdir()
    elif name == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(FILES.get(name, data[:-3]))
    with caplog.at_level(logging.WARNING):
        assert Loop(tmp_path / "key").run().result == WHOLE
    assert "restarts" in caplog.text
