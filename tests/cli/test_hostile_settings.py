"""Settings of the wrong type, names that are paths, and terminals of another encoding: one line, or it works."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from harness import __main__
from harness.checks import check_label
from harness.cli import calibrate, leaderboard, score
from harness.cli.compose import compose_jobs
from harness.cli.near_settings import keys_of
from harness.errors import HarnessError

VALUES = ("[1,{a:2}]", "{a:[1]}", "text", "-1", "1e999", "null", "''", "'[/x]'")
CONFIGS = {"model": "model=micro", "method": "method=safedir", "bench": "bench=micro_i2p", "pool": "pool=ray",
           "tracker": "tracker=wandb", "": "bench=csv"}


def settings() -> list[tuple[str, str]]:
    """Return every setting of the shipped configs, each with the words that choose its config."""
    found = []
    for group, word in CONFIGS.items():
        (job,) = compose_jobs([word], multirun=False)
        own = {"model": job.model, "method": job.methods[0], "bench": job.bench, "": job.settings}.get(
            group, job.settings.get(group))
        found += [(word, f"{group}.{key}".strip(".")) for key in keys_of(own)]
    return [(word, key) for word, key in found if key != "mode"] + [("bench=csv", group) for group in (
        "evaluators", "method", "model", "bench", "pool", "tracker", "experiment", "evaluator.hazard_judge.threshold")]


CASES = [(word, key, value) for word, key in settings() for value in VALUES]
SAMPLE = random.Random(14).sample(CASES, 24)


def plan(words: list[str], capsys) -> tuple[int, str]:
    code = __main__.main(["mode=plan", "limit=1", "tracker.mode=disabled", *words])
    said = capsys.readouterr()
    assert code != 1 or "cannot run: " in said.out
    return code, said.err


def is_one_line(code: int, said: str) -> bool:
    return code == 0 or (code == 1 and not said) or (code == 2 and said.startswith("error: ") and said.count("\n") == 1)


def test_a_setting_of_a_wrong_type_is_one_line_or_works(tmp_path: Path, capsys) -> None:
    for word, key, value in SAMPLE:
        code, said = plan([f"results={tmp_path}", word, f"{key}={value}"], capsys)
        assert is_one_line(code, said), (word, key, value, code, said)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
def test_every_setting_of_a_wrong_type_is_one_line_or_works(tmp_path: Path, capsys, value: str) -> None:
    for word, key, _ in [case for case in CASES if case[2] == value]:
        code, said = plan([f"results={tmp_path}", word, f"{key}={value}"], capsys)
        assert is_one_line(code, said), (word, key, value, code, said)


@pytest.mark.parametrize("words", [
    ["evaluators=5"], ["evaluators=[5]"], ["evaluators={a:1}"], ["evaluator.hazard_judge.threshold=high"],
    [f"results={'r' * 300}"], ["results='a\0b'"], ["bench=csv", "bench.file='a\0b'"],
    ["bench=csv", f"bench.file={'x' * 300}"],
    ["method.concept='[/x]'"], ["method={a:1}"], [f"method={'m' * 300}"], ["bench=../../x"], ["baseline=5"],
], ids=str)  # fmt: skip
def test_known_hostile_settings_are_one_line(words: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = plan(words, capsys)
    assert is_one_line(code, said), said


CONFIG_FILES = {
    "empty": "", "list": "[1]", "scalar": "5", "no name": "_target_: methods.none.NoMethod", "broken": "a: [\nb: {",
    "deep": "a: " + "[" * 3000 + "]" * 3000, "name": "name: [1]\n_target_: methods.none.NoMethod",
    "path": "name: ../x\n_target_: methods.none.NoMethod", "target": "name: x\n_target_: 5",
    "no class": "name: x\n_target_: methods.none.nothing", "a function": "name: x\n_target_: os.getcwd",
    "interpolation": "name: x\n_target_: ${nothing.at.all}", "itself": "name: x\na: ${method.a}",
    "defaults": "defaults: [5]\nname: x", "itself by default": "defaults: [bad, _self_]\nname: x",
}


@pytest.mark.parametrize("kind", CONFIG_FILES)
def test_a_hostile_config_of_ones_own_is_one_line(kind: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "bad.yaml").write_text(CONFIG_FILES[kind])
    code, said = plan([f"results={tmp_path}", "--config-dir", str(tmp_path), "method=bad"], capsys)
    assert code == 2 and is_one_line(code, said), said


@pytest.mark.parametrize("name", ["a/b", "../../../../escaped", "n" * 300, ".hidden", "", "a b", "a\nb", "\u00e4", "-x",
                                  "/x"])
@pytest.mark.parametrize("setting", ["bench.name", "method.name", "model.name", "evaluator.hazard_judge.name"])
def test_names_are_names(setting: str, name: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "p.csv").write_text("prompt\na red circle\n")
    words = ["bench=csv", f"bench.file={tmp_path / 'p.csv'}", "method=none", f"results={tmp_path / 'r'}", "pool=inline"]
    assert __main__.main([*words, f'{setting}="{name}"']) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a name of letters, digits and . _ + -" in said and len(said) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_names_that_people_use_are_names() -> None:
    for name in ("sd14", "i2p_sexual", "safedir+sld_max", "my-bench.v2", "5"):
        assert check_label("bench.name", name) == name


CELLS = {"deep meta": '{"a": ' + "[" * 3000 + "]" * 3000 + "}", "digits in meta": '{"a": ' + "9" * 6000 + "}",
         "surrogate": r'{"a": "\ud800"}', "list": "[1]", "text": "x"}


@pytest.mark.parametrize("kind", CELLS)
def test_hostile_meta_of_a_prompt_is_kept_as_text_or_one_line(kind: str, tmp_path: Path, capsys) -> None:
    import csv

    with (tmp_path / "p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "meta"], ["a red circle", CELLS[kind]]])
    code, said = plan(["bench=csv", f"bench.file={tmp_path / 'p.csv'}", f"results={tmp_path}", "method=none"], capsys)
    assert (code, said.count("\n")) == (2, 1) if kind == "surrogate" else code == 0, said


@pytest.mark.parametrize("column", ["seed", "evaluation_seed", "guidance", "width", "prompt_id"])
def test_numbers_of_6000_digits_are_one_line_or_work(column: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "p.csv").write_text(f"prompt,{column},height\na red circle,{'9' * 6000},64\n")
    words = ["bench=csv", f"bench.file={tmp_path / 'p.csv'}", f"results={tmp_path}", "method=none"]
    assert is_one_line(*plan(words, capsys))


def test_an_id_that_begins_with_a_dot_loses_no_benchmark(tmp_path: Path) -> None:
    from harness.bench import load_prompts

    (tmp_path / "p.csv").write_text("prompt_id,prompt\n.hidden,a\n../../x,b\n..,c\n")
    (job,) = compose_jobs(["bench=csv", f"bench.file={tmp_path / 'p.csv'}"], multirun=False)
    ids = [row.prompt_id for row in load_prompts(job.bench).rows]
    assert len(set(ids)) == 3 and not any(name.startswith(".") or "/" in name for name in ids)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("command", ["leaderboard", "calibrate", "score"])
def test_an_io_error_while_writing_is_one_line(finished: Path, tmp_path, monkeypatch, capsys, number, command) -> None:
    import shutil

    shutil.copytree(finished.parent, tmp_path / "copy")
    results = tmp_path / "copy" / "results"

    def broken(source: str, target: str) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr("os.replace", broken)
    words = {"leaderboard": [str(results)],
             "calibrate": ["evaluator=hazard_judge", f"data={results.parent / 'labelled'}", f"results={results}"],
             "score": [str(next(results.glob("runs/*/none/*/*"))), "evaluator=degenerate", "pool=inline"]}[command]
    main = {"leaderboard": leaderboard.main, "calibrate": calibrate.main, "score": score.main}[command]
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and str(tmp_path) in said[0]


class Latin(io.TextIOWrapper):
    """A terminal of another encoding."""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_costs_nothing(finished: Path, encoding: str, monkeypatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Latin(io.BytesIO(), encoding=encoding, errors="strict"))
    from tests.conftest import FINISHED

    assert __main__.main([*FINISHED, f"results={finished}"]) == 0
    sys.stdout.flush()
    assert b"leaderboard: " in sys.stdout.buffer.getvalue()
    print("\N{EN DASH}")


@pytest.mark.parametrize("module", ["harness", "harness.cli.score", "harness.cli.leaderboard", "harness.cli.calibrate",
                                    "harness.cli.artifacts", "harness.cli.prefetch", "harness.cli.label",
                                    "harness.cli.convert"])
def test_every_command_prepares_its_streams(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", narrow)
    command = importlib.import_module(f"{module}.__main__" if module == "harness" else module)
    with contextlib.suppress(SystemExit):
        command.main(["--help"])
    assert narrow.errors == "replace"


@pytest.mark.slow
def test_a_command_of_its_own_process_prints_in_ascii(finished: Path) -> None:
    words = [sys.executable, "-m", "harness", "leaderboard", str(finished / "\u00e4")]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and b"Traceback" not in done.stderr and done.stderr.count(b"\n") == 1


def test_an_error_is_one_line_whatever_it_tells_of() -> None:
    assert "\n" not in str(HarnessError("a\nb\r\nc\x1b[1m"))
