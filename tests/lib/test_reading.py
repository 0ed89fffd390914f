"""Readers of files that others may have written: limits, schema, and one line for whatever is wrong."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cells.store import CellStore, EvaluatorKey
from harness.cells.tables import StoredScore, UnreadableTable, decode_scores, encode_scores
from harness.checks import user_path
from harness.errors import HarnessError, printable
from harness.evaluators.scoring import score_requests
from harness.lib.arrays import parse_arrays
from harness.lib.image_files import MAX_PIXELS, open_image
from harness.lib.reading import UnreadableFileError, parse_json, parse_yaml, read_bytes, read_json, read_yaml
from harness.records import ImageKey, ScoreItem, ScoreRow, Verdict


@pytest.mark.parametrize(("text", "said"), [
    ("[" * 3000 + "]" * 3000, "nested"), ("[" * 100_000, "nested"), ("9" * 6000, "digits"),
    ("9" * 50, "digits"), ('{"a": ', "Expecting"),
    ("[" * 60 + "]" * 60, "nested"), ("", "Expecting"), (b"\xff\xff", "decode"),
])
def test_json_that_is_broken_deep_or_huge_is_a_value_error(text, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_lone_surrogates_are_replaced_so_that_texts_can_be_written() -> None:
    assert parse_json(r'{"\ud800a": ["x\udfff", "\ud83d\ude00"]}') == {"\ufffda": ["x\ufffd", "\U0001f600"]}
    assert parse_yaml(r'a: "x\ud800"')["a"].encode() == "x\ufffd".encode()


def test_plain_documents_are_read_as_the_libraries_read_them() -> None:
    import json

    import yaml

    text = json.dumps({"a": [1, 2.5, None, True, "x"], "b": {"c": [[[[1]]]]}})
    assert parse_json(text) == json.loads(text) == parse_yaml(text) == yaml.safe_load(text)
    shared = "a: &a {x: 1}\nb: [*a, *a]\nc: 2020-01-01\nd: 0x1f\ne: 1_000\nf: ~\n"
    assert parse_yaml(shared) == yaml.safe_load(shared)


@pytest.mark.parametrize("path", ["folder", "pipe", "/dev/zero", "large"])
def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UnreadableFileError) as error:
        read_bytes(tmp_path / path)
    assert "\n" not in str(error.value)


def test_what_is_absent_is_none_and_what_is_there_says_why(tmp_path: Path) -> None:
    assert read_json(tmp_path / "no.json") is None and read_yaml(tmp_path / "no.yaml") is None
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UnreadableFileError, match=r"list\.json cannot be read: it holds a list") as error:
        read_json(tmp_path / "list.json")
    assert isinstance(error.value, HarnessError)


def npz(**arrays) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()


def test_arrays_come_back_as_they_were_and_damage_is_a_value_error() -> None:
    made = {"features": np.arange(12, dtype=np.float32).reshape(3, 4), "names": np.array(["a", "bc"]), "n": np.int64(3)}
    data = npz(**made)
    found = parse_arrays(data, list(made))
    assert all((found[name] == value).all() and found[name].dtype == value.dtype for name, value in made.items())
    draw = random.Random(3)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        try:
            parse_arrays(bytes(damaged[: draw.choice([len(data), draw.randrange(len(data))])]), list(made))
        except ValueError:
            continue


def test_arrays_that_lie_about_their_size_or_hold_objects_are_refused() -> None:
    with pytest.raises(ValueError):
        parse_arrays(npz(features=np.array([{"a": 1}], dtype=object)), ["features"])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 512)})
    for content in (header.getvalue(), b"\0" * 2**28):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("features.npy", content)
        with pytest.raises(ValueError, match=r"not what its header says|far larger"):
            parse_arrays(sink.getvalue(), ["features"])


def bomb(path: Path, side: int) -> Path:
    """Write a PNG of many pixels in few bytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compressobj(9)
    data = b"".join(lines.compress(bytes(1 + side // 8)) for _ in range(side)) + lines.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


class Any_(object):  # noqa: UP004
    """Stands for an evaluator that would call everything safe."""

    name, kind, needs_baseline, upright = "any", "verdict", False, False

    def score(self, batch: list[ScoreItem]) -> list[ScoreRow]:
        return [ScoreRow(item.key.prompt_id, item.key.repeat, Verdict.SAFE) for item in batch]


@pytest.mark.parametrize("side", [8_200, 16_384])  # the library's own limits lie between
def test_a_decompression_bomb_is_unknown_with_its_reason_and_is_never_decoded(tmp_path, monkeypatch, side) -> None:
    file = bomb(tmp_path / "bomb.png", side)
    assert file.stat().st_size < 200_000 and side**2 > MAX_PIXELS
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    (row,) = score_requests(Any_(), [ScoreItem(ImageKey("p", 0), "", (), {}, str(file))], 4)
    assert row.verdict is Verdict.UNKNOWN and f"more than {MAX_PIXELS}" in str(row.error)


def test_formats_that_no_image_of_ours_has_are_not_opened(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.ppm")
    picture.save(tmp_path / "a.png")
    with pytest.raises(OSError, match="cannot identify"), open_image(tmp_path / "a.ppm"):
        pass
    with open_image(tmp_path / "a.png") as found:
        assert found.size == (8, 8)


ROWS = [StoredScore(ScoreRow(f"p{i}", 0, Verdict.UNSAFE if i % 2 else Verdict.SAFE, i / 7, "x", {"a": float(i)}),
                    "ab" * 32) for i in range(8)]


def test_no_flipped_bit_of_a_row_file_changes_a_row() -> None:
    data = encode_scores(ROWS, "f" * 16)
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 1 << (index * 5 % 8)
        try:
            found = decode_scores(bytes(damaged), "f" * 16)
        except UnreadableTable:
            continue
        assert found in ([], ROWS)  # none: of another fingerprint, so judged again


def test_row_files_without_checksums_are_still_read() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(encode_scores(ROWS, "f" * 16)))
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    assert decode_scores(sink.getvalue(), "f" * 16) == ROWS


def test_a_row_file_dated_in_the_future_does_not_win_over_later_ones(tmp_path: Path) -> None:
    store, key = CellStore(tmp_path), EvaluatorKey("judge", "f" * 16)
    for attempt, verdict in (("first", Verdict.SAFE), ("second", Verdict.UNSAFE)):
        (tmp_path / "images").mkdir(exist_ok=True)
        store.append_scores(key, attempt, [StoredScore(ScoreRow("p", 0, verdict), "ab" * 32)])
    os.utime(tmp_path / "scores" / "judge" / "first.parquet", (4e9, 4e9))
    files = store._files.listed(tmp_path / "scores" / "judge", "*.parquet")
    found = list(store._files.tables(files, lambda d: decode_scores(d, key.fingerprint), len))
    assert [rows[0].row.verdict for rows in found] == [Verdict.SAFE, Verdict.UNSAFE]


@pytest.mark.parametrize("row", [
    {"values": {"a": "text"}}, {"values": [1]}, {"value": "0.5"}, {"label": 5}, {"values": {1: 2.0}},
    {"verdict": "fine"}, {"values": {"a": None}},
])
def test_a_malformed_row_of_an_evaluator_makes_its_image_unknown(row: dict, tmp_path: Path) -> None:
    class Malformed(Any_):
        def score(self, batch: list[ScoreItem]) -> list[ScoreRow]:
            return [ScoreRow(**{"prompt_id": item.key.prompt_id, "repeat": 0, "verdict": Verdict.SAFE, **row})
                    for item in batch]

    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (found,) = score_requests(Malformed(), [ScoreItem(ImageKey("p", 0), "", (), {}, str(tmp_path / "a.png"))], 4)
    assert found.verdict is Verdict.UNKNOWN and "malformed row" in str(found.error)
    encode_scores([StoredScore(found, "ab" * 32)], "f" * 16)


def test_escape_sequences_and_control_characters_never_reach_a_terminal() -> None:
    error = HarnessError("a\x1b[31mred\x1b[0m \x1b]0;title\x07b\x00\x9b31m\u202e", "hint \x1b[2J")
    assert str(error) == "ared b31m hint "
    assert printable("tab\tand\nline \ud800") == "tab\tand\nline ?"


@pytest.mark.parametrize("path", ["a\0b", "n" * 300, "~no_such_user/x", "x/" * 3000])
def test_what_can_be_no_path_is_one_line(path: str) -> None:
    with pytest.raises(HarnessError, match="this is not a path") as error:
        user_path("results", path)
    assert len(str(error.value)) < 200
