"""Every command is a word of `python -m harness`, and all of them have one grammar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from harness.__main__ import main
from harness.cli.arguments import parse_arguments, read_given
from harness.cli.commands import COMMANDS
from harness.cli.quoting import with_home
from harness.errors import HarnessError
from harness.lib.streams import columns, terminal

CONSOLE_SCRIPT = Path(sys.executable).with_name("harness")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_how_it_is_used(name, flag, capsys):
    assert main([name, flag]) == 0
    said = capsys.readouterr().out
    assert f"usage: python -m harness {name} " in said and f"harness.{name}" not in said


def test_help_names_every_command_and_every_config(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert all(f" {name}" in said for name in ("sld_max", "sd14", "i2p", "nudenet_i2p", "demo"))


def test_help_names_ones_own_configs(tmp_path, capsys):
    (tmp_path / "evaluator").mkdir()
    (tmp_path / "evaluator" / "my_judge.yaml").write_text("name: my_judge\n")
    assert main(["--help", "--config-dir", str(tmp_path)]) == 0
    assert " my_judge " in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    (["scroe", "results"], "'scroe' is neither a command nor a setting, which is name=value. Did you mean: score?"),
    (["--config-dir", ".", "score", "runs/x"], "python -m harness score runs/x"),
    (["--confg-dir", ".", "method=none"], "Did you mean: --config-dir"),
    (["score", "--confg-dir", "."], "flag of python -m harness score '--confg-dir'. Did you mean: --config-dir"),
    (["leaderboard", "--imags", "3"], "Did you mean: --images"),
    (["leaderboard", "imags=3"], "unknown setting 'imags'. Did you mean: images"),
    (["leaderboard", "images=x"], "images=x: an integer of at least 0"),
    (["leaderboard", "corrected=yes"], "corrected=yes: true or false"),
    (["leaderboard", "a", "results=b"], "2 results folders given: a, b"),
    (["artifacts", "lst"], "unknown action 'lst'. Did you mean: list"),
    (["artifacts", "show"], "python -m harness artifacts show ARTIFACT"),
    (["artifacts", "list", "model=sd14"], "only artifacts export"),
    (["convert", "a.pt"], "1 paths are given"),
    (["prefetch", "--cfg", "job"], "unknown flag of python -m harness prefetch '--cfg'"),
])  # fmt: skip
def test_what_no_command_understands_is_one_line(words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_settings_of_a_command_may_be_written_as_flags():
    settings = ("results", "out", "corrected")
    words = ["here", "--out", "there", "--corrected"]
    given = read_given(parse_arguments(words, "x", (), settings, ("corrected",)), settings, things="folders")
    assert given.things == ("here",) and given.settings == {"out": ["there"], "corrected": ["true"]}


def test_a_file_with_an_equals_sign_in_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("epoch=3.ckpt").touch()
    given = read_given(parse_arguments(["epoch=3.ckpt", "./b=1.pt", "like=c"]), ("like",), things="files")
    assert given.things == ("epoch=3.ckpt", "./b=1.pt") and given.text("like") == "c"


def test_names_of_a_list_are_read_with_and_without_brackets():
    given = read_given(parse_arguments(["model=[a, b]", "model=c"]), ("model",))
    assert given.names("model") == ["a", "b", "c"]


@pytest.mark.parametrize(("word", "found"), [
    ("bench.file=~/a b.csv", "bench.file=/home/me/a b.csv"), ("results=~", "results=/home/me"),
    ("method.files=[~/a,~/b]", "method.files=[/home/me/a,/home/me/b]"), ("~tracker", "~tracker"),
    ("~method.lora=~/x", "~method.lora=/home/me/x"), ("text=a ~ b", "text=a ~ b"), ("x=a~/b", "x=a~/b"),
])  # fmt: skip
def test_the_home_folder_is_written_out_where_no_shell_does_it(word, found, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home(word) == found


def test_every_command_is_as_wide_as_the_terminal_and_140_columns_in_a_file(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns() == terminal().width == 140
    monkeypatch.setenv("COLUMNS", "90")
    assert columns() == terminal().width == 90


def test_no_colour_is_written_where_none_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = terminal()
    shown.print("x", style="red")
    shown.print(Table("a"))
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.skipif(not CONSOLE_SCRIPT.exists(), reason="the console script is not installed")
def test_the_console_script_knows_every_command():
    done = subprocess.run([CONSOLE_SCRIPT, "artifacts", "list", "root=nowhere"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "no artifacts in nowhere\n"), done.stderr


def test_a_command_that_needs_words_says_so_without_them(capsys):
    assert main(["convert"]) == HarnessError.exit_code
    assert capsys.readouterr().out.startswith("Convert weights")
