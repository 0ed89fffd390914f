"""What cannot be had or loaded stops the command lines in one line, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json

import pytest

from harness.__main__ import main
from harness.cli import prefetch
from tests.support.fake_hub import VARIABLES
from tests.support.stub_pipeline import write_stub

WORDS = ["method=none", "bench=micro_i2p", "limit=1", "tracker=disabled", "pool=inline", "pool.device=cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Make an empty folder and a pipeline of a class that nobody loads; the hub's cache is empty."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "empty").mkdir()
    index = write_stub(tmp_path / "odd") / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "KandinskyPipeline"}))
    return tmp_path


EMPTY = ["model=local", "model.path={place}/empty"]
ODD = ["model=local", "model.path={place}/odd"]
ABSENT = ["model=sd14", "model.dtype=float32"]


@pytest.mark.parametrize(("command", "words", "said"), [
    (main, EMPTY, "not a complete diffusers pipeline: model_index.json is missing. Set model.path="),
    (prefetch.main, ODD, "holds a KandinskyPipeline, supported are StableDiffusionPipeline"),
    (main, ABSENT, "not on this machine. Get them: python -m harness prefetch with the same settings (4.3 GB)"),
], ids=["run-folder", "prefetch-class", "run-absent"])  # fmt: skip
def test_a_model_that_cannot_be_loaded_is_one_line(command, words, said, place, capsys):
    results = place / "out"
    more = [f"results={results}"] if command is main else []
    assert command([word.format(place=place) for word in words] + WORDS + more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not results.exists() and not list((place / "hf").rglob("*.incomplete"))
