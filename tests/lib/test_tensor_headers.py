"""Headers of tensor files from elsewhere: whatever they say, one line and exit code 2 at every door, no traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from harness.cli.artifacts import run as artifact_tool
from harness.errors import HarnessError
from harness.lib.tensor_headers import FileFault, header_of, read_header, shown
from harness.lib.torch_headers import content_of
from harness.models.checks import check_known
from harness.models.weights import missing, weights_fingerprint
from harness.training.artifact_files import META, TENSORS, read_tensors
from harness.training.artifacts import read_given
from methods.esd import ESD
from methods.mace import MACE
from methods.spm import SPM
from tests.support.fixtures_models import random_config
from tests.support.hostile_tensors import DATA, GOOD, framed, lying_headers, mutated, of

LYING = lying_headers()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A pipeline whose files may be damaged, and beside it a file and an artifact."""
    root = tmp_path_factory.mktemp("doors")
    shutil.copytree(random_config()["source"], root / "pipeline")
    (root / "artifact").mkdir()
    return root


def part(root: Path, data: bytes) -> None:
    (root / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(data)
    check_known(random_config() | {"source": str(root / "pipeline")})


def setting(name: str):
    def door(root: Path, data: bytes, own: str = "own.safetensors") -> None:
        (root / own).write_bytes(data)
        check_known(random_config() | {name: str(root / own)})

    return door


def checkpoint(method):
    def door(root: Path, data: bytes, own: str = "own.safetensors") -> None:
        (root / own).write_bytes(data)
        method(str(root / own)).check(random_config(), 5.0)

    return door


def artifact(root: Path, data: bytes) -> None:
    folder = root / "artifact"
    (folder / TENSORS).write_bytes(data)
    meta = {
        "key": "k",
        "recipe": {"kind": "esd"},
        "base": {"weights": weights_fingerprint(random_config())},
        "training": {},
        "sha256": hashlib.sha256(data).hexdigest(),
        "upstream": [],
        "method": "esd",
        "seconds": 1,
    }
    (folder / META).write_text(json.dumps(meta))
    read_given(str(folder), [ESD(concept="nudity")], random_config())


DOORS = {
    "part": part,
    "model.unet": setting("unet"),
    "model.lora": setting("lora"),
    "mace": checkpoint(MACE),
    "spm": checkpoint(SPM),
    "artifact": artifact,
}


def refusal(door, root: Path, data: bytes) -> str:
    with pytest.raises(HarnessError) as error:
        door(root, data)
    said = str(error.value)
    assert error.value.exit_code == 2 and "\n" not in said and len(said) < 700 and said.isprintable()
    return said


@pytest.mark.parametrize("door", DOORS)
def test_a_lying_header_is_one_line_at_every_door(door, place):
    for name, data in LYING.items():
        said = refusal(DOORS[door], place, data)
        assert ".safetensors" in said, (name, said)


@pytest.mark.parametrize("door", DOORS)
def test_a_damaged_header_is_read_or_refused_and_never_a_traceback(door, place):
    refused = 0
    for data in mutated(60, seed=list(DOORS).index(door)):
        try:
            DOORS[door](place, data)
        except HarnessError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_what_the_reader_takes_safetensors_own_reader_takes_and_sees_the_same(tmp_path):
    from safetensors import SafetensorError, safe_open

    file, taken = tmp_path / "a.safetensors", 0
    padded = framed(json.dumps(GOOD).encode() + b"   ")
    empty = {"a": np.zeros((), np.float16), "b": np.zeros((0, 3))}
    good = [of(GOOD), padded, save({}), save(empty), save({"é": np.ones(2)})]
    for data in (*good, *mutated(400, seed=9), *LYING.values()):
        file.write_bytes(data)
        try:
            found = read_header(file)
        except FileFault:
            continue
        with safe_open(file, "np") as stream:
            assert {name: stream.get_slice(name).get_shape() for name in stream.keys()} == {  # noqa: SIM118
                name: list(shape) for name, shape in found.shapes.items()
            }
        taken += 1
    assert taken > 6
    file.write_bytes(of(GOOD, DATA[:-1]))
    with pytest.raises(SafetensorError), safe_open(file, "np"):
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a pointer", "git lfs pull"),
        ("bytes more", "longer than its header says (1 bytes more)"),
        ("cut short", "is truncated: it holds 15 bytes"),
        ("a web page", "a web page"),
        ("a zip", "harness convert"),
        ("overlap", "overlap"),
        ("a name twice", "a duplicate name"),
        ("offsets that are text", "no usable offsets for w"),
        ("length past the end", "truncated"),
        ("an unknown dtype", "unknown type (F99)"),
        ("nothing", "is empty"),
    ],
)
def test_a_fault_says_what_the_file_is(name, said, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(LYING[name])
    with pytest.raises(HarnessError, match=said.replace("(", r"\(").replace(")", r"\)")):
        header_of(tmp_path / "a.safetensors")


def test_a_header_is_read_again_when_its_file_changes(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"a": np.zeros(2, np.float32)}, file)
    assert read_header(file).shapes == {"a": (2,)}
    save_file({"a": np.zeros(3, np.float32)}, file)
    assert read_header(file).shapes == {"a": (3,)}
    file.unlink()
    with pytest.raises(FileFault, match="is missing"):
        read_header(file)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(FileFault, match="not a regular file"):
        read_header(tmp_path / "a.safetensors")


def test_names_are_shown_as_a_terminal_may_show_them():
    assert shown("a.b") == "a.b" and shown("\x1b[31mé\n") == "\\x1b[31m\\xe9\\n"
    assert shown("a" * 5000).endswith("(5000 characters)") and len(shown("a" * 5000)) < 130


def test_the_artifact_command_says_a_lying_file_in_one_line(place):
    with pytest.raises(HarnessError):
        artifact(place, LYING["a list"])
    with pytest.raises(HarnessError, match="not names of tensors"):
        artifact_tool(["show", str(place / "artifact")])
    with pytest.raises(HarnessError, match="not names of tensors"):
        read_tensors(place / "artifact")


def tensors() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(
        a=torch.randn(3, 4).half(),
        b=torch.nn.Parameter(torch.randn(2)),
        c=torch.arange(5),
        d=torch.randn(4, 6).t(),
        e=torch.zeros(2, dtype=torch.bfloat16),
        f=torch.zeros(0, 3),
    )


def plain_pickle(file: Path) -> None:
    with file.open("wb") as stream:
        pickle.dump({name: value.detach() for name, value in tensors().items()}, stream)


WAYS = {
    "zip": lambda file: torch.save(tensors(), file),
    "pickle": plain_pickle,
    "old": lambda file: torch.save(tensors(), file, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_shapes_and_types_of_torch_files_are_read_without_torch(way, tmp_path):
    WAYS[way](tmp_path / "a.pt")
    found = content_of(tmp_path / "a.pt")
    assert {name: one.shape for name, one in found.items()} == {name: tuple(v.shape) for name, v in tensors().items()}
    assert [one.dtype for one in found.values()] == ["F16", "F32", "I64", "F32", "BF16", "F32"]


class Runs:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def hostile_pickles() -> dict[str, bytes]:
    def saved(value, **how) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **how)
        return stream.getvalue()

    whole = saved(tensors())
    return {
        "runs code": saved({"a": Runs()}),
        "runs code, old": saved({"a": Runs()}, _use_new_zipfile_serialization=False),
        "runs code, plain": pickle.dumps({"a": Runs()}),
        "a module": saved(torch.nn.Linear(2, 2)),
        "a list": saved([1, 2]),
        "a tensor": saved(torch.zeros(2)),
        "cut in half": whole[: len(whole) // 2],
        "cut at its end": whole[:-30],
        "nothing": b"",
        "text": b"hello there",
        "a web page": b"<html>",
        "names that are numbers": saved({1: torch.zeros(1)}),
        "a memo without end": b"\x80\x02" + b"r\xff\xff\xff\x7f" * 3 + b".",
        "a text without end": b"\x80\x04\x8d" + b"\xff" * 8,
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid",
        "stack": b"\x80\x02" + b"(" * 5000 + b".",
        "numbers left out": whole.replace(b"data/0", b"data/9"),
    }


def test_a_hostile_pickle_is_one_line_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in hostile_pickles().items():
        for door in (checkpoint(MACE), setting("unet")):
            with pytest.raises(HarnessError) as error:
                door(tmp_path, data, "diffusers-x.pt")
            assert "\n" not in str(error.value) and "diffusers-x.pt" in str(error.value), name
    assert not (tmp_path / "pwned").exists()


def test_missing_says_a_lying_part_too(place):
    part_file = place / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    part_file.write_bytes(LYING["a gap"])
    assert "gaps between its tensors" in str(missing(random_config() | {"source": str(place / "pipeline")}))
