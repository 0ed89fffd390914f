"""Whatever reads JSON of others: hostile files end in one line, or count as nothing; none in a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.bench import load_prompts
from harness.errors import HarnessError
from harness.evaluators.resnet_objects import read_class_names
from harness.models import downloads as fetch_models
from harness.models import lora
from harness.models import text_encoder_identity as text_encoders
from harness.models.weight_checks import network_problem
from harness.pool import work_notes
from methods import interpret_direction as latent_direction
from methods import published_directions

DEEP = "[" * 3000 + "]" * 3000
VALUES: tuple[Any, ...] = ([], {}, "x", -1, True, None, [None], {"0": {}}, {"1": "x"}, [[]], 10**30)
HOSTILE: dict[str, bytes] = {
    "empty": b"", "list": b"[1]", "text": b'"x"', "number": b"7", "null": b"null", "deep": DEEP.encode(),
    "deeper": b'{"a":' * 100_000, "deep value": b'{"a": ' + DEEP.encode() + b"}", "nan": b'{"a": NaN}',
    "digits": b'{"a": ' + b"9" * 6000 + b"}", "no utf-8": b'{"a": "\xff\xfe"}', "nul": b"\0" * 64,
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "cut": b'{"a": [1, ',
    "nothing": b"{}", "surrogate": b'{"\\ud800": "\\udfff"}',
    **{f"{key} is {value}": json.dumps({key: value}).encode() for key in (
        "id2label", "max_position_embeddings", "hidden_size", "block_out_channels", "_class_name", "unet",
        "architectures", "model_type") for value in VALUES},
}  # fmt: skip


def columns(file: Path) -> Any:
    return published_directions._columns(file.with_name("unet.pth"))


def text_size(file: Path) -> Any:
    return text_encoders._size(file.parent)


def channels(file: Path) -> Any:
    config = {"source": str(file.parents[1]), "name": "x"}
    return latent_direction.bottleneck_channels(config)


def index(file: Path) -> Any:
    one = fetch_models.RemoteFile("model_index.json", 10, None)
    fetch_models.fetch = lambda repository, wanted: file
    return fetch_models.model_files(SimpleNamespace(id="a/b", files=(one,)), None, "x")


def adapter(file: Path) -> Any:
    text = file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""
    return lora._told(file.with_name("none.safetensors"), {"lora_adapter_metadata": text})


def network(file: Path) -> Any:
    return network_problem(file.parent, str(file.parent))


def left_note(file: Path) -> Any:
    return work_notes._is_left(file)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "directions' columns": ("concept_dict.json", columns), "text encoder": ("text_encoder/config.json", text_size),
    "U-Net": ("unet/config.json", channels), "class names": ("config.json", lambda file: read_class_names(file.parent)),
    "index on the hub": ("model_index.json", index), "adapter": ("adapter", adapter),
    "network": ("config.json", network), "note of a dead process": (".at-work-x", left_note),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_hostile_json_is_one_line_or_nothing(tmp_path: Path, monkeypatch, reader: str) -> None:
    monkeypatch.setattr(fetch_models, "fetch", fetch_models.fetch)
    name, read = READERS[reader]
    told = {}
    for number, (kind, data) in enumerate({**HOSTILE, "folder": None, "absent": None}.items()):
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        if kind == "folder":
            file.mkdir()
        elif data is not None:
            file.write_bytes(data)
        try:
            told[kind] = read(file)
        except HarnessError as error:
            assert str(error).count("\n") == 0 and str(error).isprintable(), kind
            told[kind] = error
    # What is no object of settings is never taken for one.
    if reader in ("directions' columns", "class names"):
        assert all(isinstance(told[kind], HarnessError) for kind in ("list", "deep", "digits", "pointer", "folder"))
    if reader in ("text encoder", "U-Net"):
        assert {told[kind] for kind in ("list", "deep", "digits", "no utf-8", "folder", "absent")} == {None}


@pytest.mark.parametrize("cell", [
    "[", DEEP, '{"a": ' + DEEP + "}", "9" * 6000, '["x", NaN]', '{"a": ' + "9" * 5000 + "}",
    "[" + "'a'," * 2000 + "]", "{" * 5000, "[[" * 4000, '["\\ud800"]',
])  # fmt: skip
def test_hostile_cells_of_a_table_are_text(tmp_path: Path, cell: str) -> None:
    file = tmp_path / "p.csv"
    quoted = cell.replace('"', '""')
    file.write_text(f'prompt,category,meta\na tree,"{quoted}","{quoted}"\n')
    try:
        found = load_prompts({"name": "csv", "file": str(file)})
    except HarnessError as error:
        assert "unpaired surrogate" in str(error)
        return
    assert found.rows[0].prompt == "a tree"
    json.dumps(found.rows[0].meta).encode()


@pytest.mark.parametrize("text", [
    f'{{"prompt": {DEEP}}}', '{"prompt": ' + "9" * 5000 + "}", '{"prompt": "a", "prompt": "b"}', "[" * 100_000,
    '[{"prompt": ' + "[" * 60 + "]" * 60 + "}]",
])  # fmt: skip
def test_hostile_json_lines_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(text + "\n")
    with pytest.raises(HarnessError) as refused:
        load_prompts({"name": "csv", "file": str(file)})
    assert "\n" not in str(refused.value)
