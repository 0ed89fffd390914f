"""Tables that a user gives: every kind gives the same rows or one line, and nothing is cut in silence."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook

from harness.errors import HarnessError
from harness.lib.table_file import parse_table, read_table
from harness.lib.table_values import is_missing, number, whole_number

HEADER = ["case_number", "prompt", "seed"]
ROWS = [["0", "a red circle; or two, or 'three'", "41"], ["1", 'a "blue" square', "42"],
        ["2", "two\nlines, é and 日本", "43"]]  # fmt: skip


def written(separator: str = ",", index: bool = False, quoting: int = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=quoting)
    writer.writerow([*([""] if index else []), *HEADER])
    writer.writerows([*([str(n)] if index else []), *row] for n, row in enumerate(ROWS))
    return out.getvalue()


def workbook(rows: list[list[object]], sheets: int = 1, first: Sequence[object] = (), merged: str = "") -> bytes:
    book = Workbook()
    if first:
        book.worksheets[0].append(list(first))
    for _ in range(sheets - 1):
        book.create_sheet()
    for row in rows:
        book.worksheets[-1].append(row)
    if merged:
        book.worksheets[-1].merge_cells(merged)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def parquet(index: bool = False) -> bytes:
    columns = {"case_number": [0, 1, 2], "prompt": [row[1] for row in ROWS], "seed": [41, 42, 43]}
    out = io.BytesIO()
    pq.write_table(pa.table(columns | ({"__index_level_0__": [0, 1, 2]} if index else {})), out)
    return out.getvalue()


def records() -> list[dict[str, object]]:
    return [{"case_number": int(row[0]), "prompt": row[1], "seed": int(row[2])} for row in ROWS]


KINDS = {
    "plain.csv": written().encode(),
    "bom.csv": written().encode("utf-8-sig"),
    "quoted.csv": written(quoting=csv.QUOTE_ALL).encode(),
    "semicolons.csv": written(";").encode(),
    "tabs.csv": written("\t").encode(),
    "t.tsv": written("\t").encode(),
    "bars.txt": written("|").encode(),
    "index.csv": written(index=True).encode(),
    "index-semicolons.csv": written(";", index=True).encode("utf-8-sig"),
    "utf16.txt": written("\t").encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + written().encode("utf-16-be"),
    "utf16-unmarked.csv": written().encode("utf-16-le"),
    "utf32.csv": written().encode("utf-32"),
    "spaces-before-quotes.csv": written(quoting=csv.QUOTE_ALL).replace('","', '", "').encode(),
    "indented.txt": json.dumps(records(), indent=2).encode(),
    "readme-first.xlsx": workbook([HEADER, *ROWS], sheets=2, first=["all of them"]),
    "sep.csv": b"sep=;\r\n" + written(";").encode(),
    "unix.csv": written().replace("\r\n", "\n").encode(),
    "no-last-newline.csv": written().rstrip("\r\n").encode(),
    "blank-lines.csv": written().replace("\r\n", "\r\n\r\n").encode() + b"   \r\n",
    "p.csv.gz": gzip.compress(written().encode()),
    "p.xlsx": workbook([HEADER, *([int(row[0]), row[1], int(row[2])] for row in ROWS)]),
    "index.xlsx": workbook([[None, *HEADER], *([n, int(row[0]), row[1], int(row[2])] for n, row in enumerate(ROWS))]),
    "second-sheet.xlsx": workbook([HEADER, *ROWS], sheets=2),
    "p.parquet": parquet(),
    "index.parquet": parquet(index=True),
    "p.json": json.dumps(records()).encode(),
    "p.jsonl": "\n".join(map(json.dumps, records())).encode(),
    "lines.json": "\n".join(map(json.dumps, records())).encode(),
    "old-mac.csv": written().replace("\r\n", "\r").encode(),
    "p.jsonl.gz": gzip.compress("\n".join(map(json.dumps, records())).encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_cells(tmp_path, name):
    (tmp_path / name).write_bytes(KINDS[name])
    table = read_table(tmp_path / name)
    assert table.columns == tuple(HEADER)
    assert [list(record.values()) for record in table.records] == ROWS


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"),
    (b"\r\n\r\n", "is empty"),
    (b"prompt\na red circle, with a skull\n", r"row 0 has 2 cells, the header 1: put prompts with commas in quotes"),
    (b"prompt;n\na;1\nb; c;2\n", r"row 1 has 3 cells, the header 2: put prompts with semicolons in quotes"),
    (b"n,prompt\n0,a\n1\n", r"row 1 has 1 cells, the header 2"),
    (b"n,prompt\n0,a,\n1,b,\n", r"row 0 has 3 cells, the header 2: remove the commas at the end of the row"),
    (b"n,prompt\n0,'a, b'\n", r"put prompts with commas in quotes, of this kind: \""),
    (b"# mine\nn,prompt\n0,a\n", r"row 0 has 2 cells, the header 1.*If line 1 is not a header, remove it"),
    (b"| n | prompt |\n|---|:---|\n| 0 | a |\n", "is a Markdown table"),
    (b"<table><tr><th>prompt</th></tr></table>", "is a web page"),
    (b'n,prompt\n0,a\n1,"b\n2,c\n', r"row 1 has a quote that never closes.*line 3"),
    (b'n,prompt\n0,"a\n1,"b"\n2,c\n', r"row 0 has a quote that closes in the middle of a cell, or one before it never"),
    (b'n,prompt\n0,a\n1,"b, c', r"row 1 has a quote that never closes, or the file is cut off there"),
    (b'prompt\n"say \\"hi\\", ok"\n', r"row 0 has a quote that closes in the middle.*written twice"),
    (b"n,prompt\n0,a\n1,b\0c\n", r"row 1 has a NUL byte"),
    (b"prompt,n,prompt\na,1,b\n", r"two columns named 'prompt' \(columns 1 and 3\)"),
    (b"prompt, prompt \na,b\n", r"two columns named 'prompt'"),
    ("prompt\ncafé\n".encode("latin-1"), r"is not UTF-8 text \(line 2, byte 10\).*iconv -f WINDOWS-1252 -t UTF-8"),
    (b"PK\x03\x04rest", "damaged workbook or zip"),
    (b"PAR1rest", "damaged Parquet"),
    (b"\x1f\x8brest", "damaged gzip"),
    (gzip.compress(b"prompt\na\n", mtime=0)[:-6], "damaged gzip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", r"old Excel workbook.*\.xlsx"),
    (b"<!DOCTYPE html><html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"\x80\x04\x95", "a pickle"),
    (b"\x00\x01\x02\x03" * 40, "NUL"),
    (b'{"prompt": {"0": "a"}}', "records|list of JSON objects"),
    (b'[{"prompt": "a", "prompt": "b"}]', "a duplicate key"),
    (b'[{"a":' * 100_000, "is not JSON records"),
])  # fmt: skip
def test_what_is_no_whole_table_is_one_line_naming_file_and_row(content, said):
    with pytest.raises(HarnessError, match=said) as caught:
        parse_table(content, "mine.csv")
    assert "mine.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_at_any_byte_is_whole_rows_or_one_line():
    """Every row that is read is a row of the file, but for the last cell's own text, whose end nothing marks."""
    data, n_whole = written().encode(), 0
    for end in range(len(data)):
        try:
            records = parse_table(data[:end], "cut.csv").records
        except HarnessError:
            continue
        n_whole += 1
        for record, row in zip(records, ROWS, strict=False):
            assert list(record.values())[:2] == row[:2] and row[2].startswith(record["seed"])
    assert n_whole < len(data) / 2


@pytest.mark.parametrize("prompts", [["a; b; c", "d"], ["a,b", "c"], ["a\tb"], ["a | b"]])
def test_one_column_is_one_column_whatever_its_prompts_hold(prompts):
    text = "prompt\n" + "".join(f'"{prompt}"\n' for prompt in prompts)
    assert [record["prompt"] for record in parse_table(text.encode(), "p.csv").records] == prompts
    plain = "prompt\n" + "".join(f"{prompt}\n" for prompt in prompts if "," not in prompt)
    assert all(len(record) == 1 for record in parse_table(plain.encode(), "p.csv").records)


def test_columns_are_found_whatever_their_capitals_and_spaces_and_ambiguous_ones_are_not_guessed():
    table = parse_table(b" Prompt ,Case-Number,evaluation_seed\na,7,1\n", "p.csv")
    assert (table.column("prompt"), table.column("case_number")) == ("Prompt", "Case-Number")
    assert table.column("seed") is None
    with pytest.raises(HarnessError, match=r"no column 'evaluation_sed' \(bench.columns.seed\).*: evaluation_seed\?"):
        table.needed("evaluation_sed", "bench.columns.seed")
    two = parse_table(b"Prompt,PROMPT\na,b\n", "p.csv")
    assert two.column("PROMPT") == "PROMPT"
    with pytest.raises(HarnessError, match="may be column 'Prompt' or 'PROMPT'"):
        two.column("prompt")


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_a_table_or_one_line(tmp_path, name):
    rng = random.Random(name)
    for _ in range(20):
        data = bytearray(KINDS[name])
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(2)] = bytes([rng.choice([34, 44, 59, 0, 255, rng.randrange(256)])])
        (tmp_path / name).write_bytes(data[: rng.choice([place, len(data)])])
        try:
            table = read_table(tmp_path / name)
        except HarnessError as error:
            assert "\n" not in str(error)
            continue
        assert all(record.keys() == set(table.columns) for record in table.records)


def test_a_formula_whose_value_no_program_stored_is_named():
    with pytest.raises(HarnessError, match=r"p\.xlsx row 1 has a formula without a value"):
        parse_table(workbook([["prompt", "seed"], ["a", 1], ["=1+1", 2]]), "p.xlsx")
    found = parse_table(workbook([["prompt", None], [None, None], ["a", 1.0], [None, 7], [True, None]]), "p.xlsx")
    assert [record["prompt"] for record in found.records] == ["a", "", "True"]


def test_a_bomb_of_gzip_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("harness.lib.table_formats.MAX_BYTES", 1000)
    with pytest.raises(HarnessError, match="unpacks to more than"):
        parse_table(gzip.compress(b"prompt\n" + b"a" * 2000, mtime=0), "p.csv.gz")


@pytest.mark.parametrize(("text", "value"), [
    ("123", 123), ("123.0", 123), (" 7.00 ", 7), ("-5", -5), ("1e5", 100_000), ("2E+03", 2000), ("007", 7),
    (str(2**64 - 1), 2**64 - 1), ("4290749014.0", 4_290_749_014),
])  # fmt: skip
def test_whole_numbers_as_programs_write_them(text, value):
    assert whole_number(text) == value


@pytest.mark.parametrize("text", [
    "1.5", "", "nan", "1_000", "0x10", "1.84467E+19", "1.8446744073709552e+19", "1.23457E+11", "1E+12",
    "18446744073709551615.0", "9" * 6000, "٣", "1,000", "inf",
])  # fmt: skip
def test_no_whole_number_and_one_whose_digits_may_be_lost_is_refused(text):
    with pytest.raises(ValueError):
        whole_number(text)


def test_missing_numbers_and_bad_ones():
    assert all(map(is_missing, ["", " ", "nan", "NaN", "None", "null", "<NA>", "N/A", "#N/A", None]))
    assert not any(map(is_missing, ["0", "-", "no"]))
    assert number(" 7.5 ") == 7.5
    for text in ("7,5", "inf", "nan", "1_0", "x"):
        with pytest.raises(ValueError):
            number(text)


def test_an_unreadable_file_is_one_line(tmp_path):
    with pytest.raises(HarnessError, match="cannot be read"):
        read_table(tmp_path)
    assert Path(tmp_path).is_dir()


def test_a_table_that_this_user_may_not_read_says_so_with_its_path(monkeypatch):
    def denied(file: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(HarnessError, match=r"/theirs\.csv: permission denied\. Ask its owner"):
        read_table(Path("/theirs.csv"))


def test_spaces_before_quotes_are_said_and_a_text_that_has_both_of_its_own_keeps_them():
    table = parse_table(b'n, prompt\n0, "a, b"\n1, c\n', "mine.csv")
    assert [record["prompt"] for record in table.records] == ["a, b", "c"]
    assert any("spaces before quotes" in note for note in table.notes)
    for text in ('n,prompt\n0," ""a"", ""b"""\n', 'n,prompt\n0, "a" and b\n'):
        (record,) = parse_table(text.encode(), "mine.csv").records
        assert record["prompt"].startswith(' "a"')


def test_a_list_without_a_header_is_told_how_it_becomes_a_table():
    with pytest.raises(HarnessError, match=r"\(echo prompt; cat FILE\) > NEW\.tsv"):
        parse_table(b"a cat, red\na dog\n", "mine.txt", [".txt"])
    table = parse_table(b"prompt\na cat, red\na dog\n", "new.tsv", [".tsv"])
    assert [record["prompt"] for record in table.records] == ["a cat, red", "a dog"]


def test_merged_cells_of_the_sheet_that_is_read_are_refused_and_messages_name_the_sheet():
    rows = [HEADER, *ROWS]
    with pytest.raises(HarnessError, match=r"merged cells \(C2:C3\).*Unmerge them"):
        parse_table(workbook(rows, merged="C2:C3"), "mine.xlsx")
    table = parse_table(workbook(rows, sheets=2, first=["all of them"]), "mine.xlsx")
    assert table.name == "mine.xlsx (sheet 'Sheet1' of 2)"
