"""`python -m harness leaderboard`: four files with the same numbers, and one line for what is wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from harness.cli.leaderboard import main
from harness.errors import HarnessError, InvalidValueError, MissingResourceError, StorageError, UnknownNameError
from harness.report.leaderboard import Selection, write_leaderboard
from tests.support.report_fixtures import ENTRIES, NASTY, safety_summary, write_run, write_world


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    results = write_world(tmp_path_factory.mktemp("results"))
    write_leaderboard(results)
    return results


@pytest.fixture
def single(tmp_path):
    write_run(tmp_path, safety_summary(ENTRIES[0]), ENTRIES[0], NASTY)
    return tmp_path


def test_all_four_files_are_written_and_nothing_else_is_left(board):
    assert sorted(p.name for p in board.iterdir() if p.is_file()) == [
        f"leaderboard.{e}" for e in ("csv", "html", "json", "md")
    ]


def test_csv_and_json_hold_the_unrounded_numbers_of_the_summary(board):
    rows = list(csv.DictReader((board / "leaderboard.csv").open()))
    runs = json.loads((board / "leaderboard.json").read_text())["runs"]
    assert len(rows) == len(runs) == 19
    row = next(row for row in rows if row["method"] == "sld_max" and row["bench"] == "micro_i2p")
    summary = safety_summary(next(entry for entry in ENTRIES if entry.method == "sld_max"))
    metric = summary["metrics"]["unsafe_rate/hazard_judge"]
    assert float(row["unsafe_rate"]) == metric["value"]
    assert float(row["unsafe_rate_ci_high"]) == metric["ci_high"]
    assert float(row["difference"]) == summary["comparisons"]["unsafe_rate/hazard_judge"]["difference"]
    run = next(run for run in runs if run["cell_id"] == row["cell_id"])
    assert run["metrics"]["unsafe_rate/hazard_judge"]["value"] == metric["value"]
    assert run["provenance"]["git"]["revision"].startswith("3620da3")


def test_markdown_and_page_show_the_same_text(board):
    markdown = (board / "leaderboard.md").read_text()
    page = (board / "leaderboard.html").read_text()
    for text in ("34.0 %", "−42.0 pts", "0.669", "p &lt; .001"):
        assert text in markdown
        assert text in page


def test_number_that_is_not_there_is_an_empty_field_not_zero(board):
    rows = list(csv.DictReader((board / "leaderboard.csv").open()))
    assert next(row for row in rows if row["method"] == "esd")["unsafe_rate"] == ""
    assert next(row for row in rows if row["bench"] == "micro_i2p")["fid"] == ""


def test_broken_and_unfinished_runs_are_listed(board):
    for name in ("md", "html", "json", "csv"):
        text = (board / f"leaderboard.{name}").read_text()
        assert "broken" in text
        assert "unfinished" in text
    assert "0badc0ffee00" in (board / "leaderboard.md").read_text()


def test_broken_run_is_listed_and_the_exit_code_says_so(board, tmp_path, capsys):
    assert main([str(board), "--out", str(tmp_path), "--images", "0"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "0badc0ffee00" in error
    assert (tmp_path / "leaderboard.html").is_file()


def test_same_runs_give_the_same_bytes(single, tmp_path):
    first, second = (write_leaderboard(single, tmp_path / name).files for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_missing_folder_is_one_line_and_exit_2(tmp_path):
    words = [sys.executable, "-m", "harness", "leaderboard", str(tmp_path / "nowhere")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(MissingResourceError, match="no runs"):
        write_leaderboard(tmp_path)


def test_folder_with_only_broken_runs_is_refused_with_the_reason(single):
    (next(single.glob("runs/*/*/*/*")) / "summary.json").write_text('{"schema": 9}')
    with pytest.raises(HarnessError, match="schema is 9"):
        write_leaderboard(single)


def test_run_that_cannot_be_reported_with_its_provenance_keeps_its_numbers(single):
    folder = next(single.glob("runs/*/*/*/*"))
    (folder / "provenance.json").write_text("[1,")
    (folder / "cell.yaml").write_text("a: [b")
    write_leaderboard(single)
    (run,) = json.loads((single / "leaderboard.json").read_text())["runs"]
    assert run["unsafe_rate"] == 0.76
    assert "provenance.json" in run["problems"]
    assert "cell.yaml" in run["problems"]


def test_lost_pictures_and_rows_do_not_stop_the_page(single):
    folder = next(single.glob("runs/*/*/*/*"))
    shutil.rmtree(folder / "images")
    write_leaderboard(single)
    assert "unreadable file" in (single / "leaderboard.html").read_text()
    next((folder / "rows").glob("*.parquet")).write_bytes(b"PAR1 cut off")
    write_leaderboard(single)


def test_row_cannot_reach_a_picture_outside_its_run(single):
    from harness.report.grid import _data_url

    folder = next(single.glob("runs/*/*/*/*"))
    own = next(folder.glob("images/*/*.png"))
    shutil.copy(own, single / "secret.png")
    assert _data_url(folder, str(own.relative_to(folder)))
    assert _data_url(folder, "../../../../../secret.png") is None


def test_selection_shows_only_what_is_asked_for(board, tmp_path):
    write_leaderboard(board, tmp_path, 0, Selection(methods=("none", "sld_max"), benches=("micro_i2p",)))
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["method"] for row in rows] == ["sld_max", "none"]


def test_unknown_name_gets_the_nearest(board, tmp_path):
    with pytest.raises(UnknownNameError, match="sld_max"):
        write_leaderboard(board, tmp_path, 0, Selection(methods=("sld_mx",)))


def test_negative_number_of_pictures_is_refused(board):
    with pytest.raises(InvalidValueError, match="images is -1"):
        write_leaderboard(board, images=-1)


def test_folder_that_cannot_be_written_is_one_line(single, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        write_leaderboard(single, blocked / "below")


def test_leaderboard_loads_no_torch(single):
    code = f"""
import sys
from harness.cli.leaderboard import main
main([{os.fspath(single)!r}])
print(sorted({{'torch', 'wandb', 'ray', 'hydra'}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
