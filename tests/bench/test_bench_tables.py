"""Prompt files as other programs write them: the same rows, nothing from a column that is not there, ids that last."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pytest

from harness.bench import load_prompts
from harness.bench.ids import IdFinder, safe_ids, source_ids
from harness.cells.store import CellStore
from harness.errors import HarnessError, InvalidValueError, UnknownNameError
from harness.records import ImageKey
from harness.training.prompts import missing_prompts, read_prompts
from tests.support.bench_common import SHARED, load, load_real, preset, write

# Prompt-set hashes of what the package ships; a cell's id depends on them.
SHIPPED = {
    "country_body": "6a0c8dc30627e431", "micro_coco": "9629ef2f19a38a06", "micro_coco_tune": "d55a3c3283108469",
    "micro_explicit": "4fd0e98ca5f4fc51", "micro_i2p": "ffea424448700eaf", "micro_i2p_tune": "09b7202ac32027ae",
    "micro_mma": "6be6ffb3c19c6d36", "micro_mma_clean": "6f2b79bb400c4d59", "micro_responsible": "cb7d60f3ee5b8ce8",
    "micro_responsible_tune": "3232391443bc29af", "micro_ring_a_bell": "892abc3c56759619",
    "micro_unlearndiffatk": "46d8120075d23be5", "micro_winobias": "ea7d9e205f7693613"[:16],
    "micro_winobias_extended": "19fb24fd2144283f", "micro_winobias_tune": "657bdfcede43b6bf",
    "winobias_gender": "14caa2e9612bc512", "winobias_gender_extended": "259a34a3e92047ff",
}  # fmt: skip
FILES = {
    ("i2p", "i2p_unlearndiffatk.csv"): "41d691bf7acd397c",
    ("i2p_hard", "i2p_unlearndiffatk.csv"): "5e17903523e48b68",
    ("coco1k", "coco_30k_erasing.csv"): "d5b47f1aa87fb9fd",
    ("ring_a_bell_violence", "Violence_eta_5.5_K_77.csv"): "20ed9c013872a5aa",
    ("csv", "original_bias.csv"): "a8c5f5c76ed043fb",
}
I2P = ["prompt", "categories", "hard", "evaluation_seed", "evaluation_guidance", "sd_image_width", "sd_image_height",
       "case_number"]  # fmt: skip
PLAIN = [["a red circle", "violence", "0", "41", "7.5", "512", "512", "0"],
         ["a blue square", "hate, violence", "1", "42", "7.5", "512", "512", "1"]]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_prompts_have_the_hashes_that_they_had(name):
    assert load(name).hash[:16] == SHIPPED[name]


@pytest.mark.parametrize(("name", "file"), FILES)
def test_public_files_without_a_nameless_column_have_the_hashes_that_they_had(name, file):
    assert load_real(name, file).hash[:16] == FILES[name, file]


@pytest.mark.parametrize("first", ["", " ", "Unnamed: 0"])
def test_a_data_frames_index_is_no_field(tmp_path, first):
    plain = load("i2p", write(tmp_path / "plain.csv", I2P, PLAIN))
    rows = [[str(n), *row] for n, row in enumerate(PLAIN, 7)]
    index = load("i2p", write(tmp_path / "index.csv", [first, *I2P], rows))
    kept = [(row.prompt_id, row.prompt, row.seed, row.guidance, row.size, row.category) for row in plain.rows]
    assert [(r.prompt_id, r.prompt, r.seed, r.guidance, r.size, r.category) for r in index.rows] == kept
    assert [row.negative_prompt for row in index.rows] == [None, None]
    assert first.strip() or index.hash == plain.hash


def test_public_i2p_with_a_nameless_index_has_no_negative_prompt():
    prompts = load_real("i2p", "i2p_erasing.csv")
    assert {row.negative_prompt for row in prompts.rows} == {None}
    assert prompts.rows[0].meta.keys().isdisjoint({"", "0"})


def test_the_official_file_of_retain_objects_is_read(tmp_path):
    header = ["", "case_number", "prompt", "evaluation_seed", "class"]
    rows = [[str(n), str(n), f"Image of {name}", str(40 + n), name] for n, name in enumerate(("church", "gas pump"))]
    found = load("retain_objects", write(tmp_path / "small_imagenet_prompts.csv", header, rows)).rows
    assert [(row.prompt_id, row.seed, row.category, row.size, row.negative_prompt) for row in found] == [
        ("0", 40, ("church",), None, None), ("1", 41, ("gas pump",), None, None)]  # fmt: skip


@pytest.mark.parametrize(("columns", "said"), [
    ({"prompt": "adv_promt"}, r"no column 'adv_promt' \(bench\.columns\.prompt\)\. Did you mean: adv_prompt\?"),
    ({"seed": "evaluation_sed"}, "Did you mean: evaluation_seed"),
    ({"prompt_id": "case_nummer"}, "Did you mean: case_number"),
    ({"category": "zzz"}, "It has case_number, prompt, adv_prompt, evaluation_seed"),
])  # fmt: skip
def test_a_column_that_the_user_names_and_the_file_has_not_is_an_error(tmp_path, columns, said):
    file = write(tmp_path / "p.csv", ["case_number", "prompt", "adv_prompt", "evaluation_seed"], [["7", "a", "b", "5"]])
    with pytest.raises(InvalidValueError, match=said):
        load("csv", file, columns=columns)
    assert load("csv", file, columns={"prompt": "Adv Prompt"}).rows[0].prompt == "b"


def test_a_field_may_be_said_to_have_no_column(tmp_path):
    file = write(tmp_path / "p.csv", ["prompt_id", "prompt", "seed"], [["a", "x", "5"], ["a", "y", "6"]])
    with pytest.raises(HarnessError, match=r"duplicate prompt ids: a \(rows 0, 1\).*prompt_id=false"):
        load("csv", file)
    rows = load("csv", file, columns={"prompt_id": False, "seed": False}).rows
    assert [(row.prompt_id, row.seed) for row in rows] == [("00000", None), ("00001", None)]


def test_conditions_name_any_column_also_one_that_is_a_field(tmp_path):
    file = write(tmp_path / "p.csv", ["case_number", "prompt", "class", "kept"],
                 [["0.0", "a", "church", "True"], ["1.0", "b", "tench", "False"]])
    columns = {"prompt_id": "case_number", "category": "class"}
    assert [row.prompt for row in load("csv", file, columns=columns, where={"class": "church"}).rows] == ["a"]
    assert [row.prompt for row in load("csv", file, columns=columns, where={"case_number": 1}).rows] == ["b"]
    assert [row.prompt for row in load("csv", file, columns=columns, where={"Kept": True}).rows] == ["a"]
    with pytest.raises(UnknownNameError, match="Did you mean: class"):
        load("csv", file, columns=columns, where={"clas": "church"})
    with pytest.raises(HarnessError, match=r"no row in .* has a category\. Set their column"):
        load("csv", file, categories=["church"])


def test_numbers_as_a_data_frame_writes_them(tmp_path):
    header = ["case_number", "prompt", "seed", "guidance", "width", "height", "negative_prompt", "category"]
    rows = [["0.0", "a", "123.0", "7", "64.0", "64", "", "x"], ["1.0", "b", "", "nan", "", "", "nan", "NaN"],
            ["", "c", "NaN", "<NA>", "nan", "NaN", "<NA>", ""], ["12.0", "d", "None", "", "128", "64.0", "e", "y;z"]]
    found = load("csv", write(tmp_path / "p.csv", header, rows), columns={"prompt_id": "case_number"}).rows
    assert [(r.prompt_id, r.seed, r.guidance, r.size, r.negative_prompt, r.category) for r in found] == [
        ("0", 123, 7.0, (64, 64), None, ("x",)), ("1", None, None, None, None, ()),
        ("00002", None, None, None, None, ()), ("12", None, None, (128, 64), "e", ("y", "z"))]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), [
    ("seed", "-1"), ("seed", "1.5"), ("seed", "1.8446744073709552e+19"), ("guidance", "7,5"), ("guidance", "-1"),
    ("meta", '{"a": "\\ud800"}'),
])  # fmt: skip
def test_a_bad_number_is_one_line_with_its_row(tmp_path, column, value):
    with pytest.raises(InvalidValueError, match=f"p.csv row 1: {column}"):
        load("csv", write(tmp_path / "p.csv", ["prompt", column], [["a", ""], ["b", value]]))
    with pytest.raises(InvalidValueError, match="row 0: size 64 x nothing"):
        load("csv", write(tmp_path / "q.csv", ["prompt", "width", "height"], [["a", "64", ""]]))


def test_broken_prompts_are_reported_by_row_and_a_text_like_nan_is_kept(tmp_path):
    rows = [["a"], [""], ["nan"], ["x" * 6000], ["  "]]
    found = load("csv", write(tmp_path / "p.csv", ["prompt"], [*rows, ["b"]]))
    notes = " | ".join(found.notes())
    assert "empty prompt in rows 1, 4" in notes and "over 5000 characters in row 3" in notes
    assert re.search(r"the prompt of row 2 looks like a missing value of a data frame; it is kept", notes)
    assert [row.prompt for row in found.rows] == ["a", "nan", "b"]


def test_a_header_alone_and_a_list_without_one_are_one_line(tmp_path):
    with pytest.raises(HarnessError, match="has a header but no rows"):
        load("csv", write(tmp_path / "p.csv", ["prompt"], []))
    with pytest.raises(HarnessError, match=r"has no column prompt; it has a red circle"):
        load("csv", write(tmp_path / "q.csv", ["a red circle"], [["a blue square"]]))
    with pytest.raises(HarnessError, match=r"one per line, into a table: \(echo prompt; cat FILE\) > NEW\.tsv"):
        load("csv", write(tmp_path / "q.csv", ["a red circle"], [["a blue square"]]))
    with pytest.raises(HarnessError, match=r"The first row must be the header"):
        load("csv", write(tmp_path / "q.csv", ["1", "a red circle"], [["2", "a blue square"]]))


def test_categories_are_read_from_a_list_as_a_data_frame_writes_it(tmp_path):
    rows = [["a", "['x', 'y z']"], ["b", '["x"]'], ["c", "[x"], ["d", "[1, 2]"], ["e", "[" * 5000]]
    found = load("csv", write(tmp_path / "p.csv", ["prompt", "category"], rows)).rows
    assert [row.category for row in found][:4] == [("x", "y z"), ("x",), ("[x",), ("[1, 2]",)]


def test_a_prompt_that_nobody_can_see_is_empty(tmp_path):
    found = load("csv", write(tmp_path / "p.csv", ["prompt"], [["\u200b"], ["\ufeff \u200f"], ["a\u200bb"]]))
    assert [row.prompt for row in found.rows] == ["a\u200bb"] and found.excluded == {"empty prompt": 2}


def test_columns_read_under_another_spelling_and_seeds_that_are_absent_are_said(tmp_path):
    notes = load("csv", write(tmp_path / "p.csv", [" Prompt ", "Seed"], [["a", "5"]])).notes()
    assert any("column 'Prompt' is read as prompt" in note for note in notes)
    assert any("column 'Seed' is read as seed" in note for note in notes)
    notes = load("i2p", write(tmp_path / "q.csv", ["prompt", "case_number"], [["a", "5"]])).notes()
    assert any("no column evaluation_seed or sd_seed or seed" in note for note in notes)


def test_ids_stay_apart_and_none_hides_its_file(tmp_path):
    texts = ["日本", "中国", "a/b", "a b", ".hidden", "../../x", "plain", "-"]
    found = load("csv", write(tmp_path / "p.csv", ["prompt_id", "prompt"], [[text, "a"] for text in texts]))
    ids = [row.prompt_id for row in found.rows]
    assert len({name.casefold() for name in ids}) == len(texts) and ids[6] == "plain"
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) for name in ids)
    assert any("got a hash to keep them apart" in note for note in found.notes())
    for name in ids:
        CellStore(tmp_path / "cell").write_image(ImageKey(name, 0), np.zeros((8, 8, 3), np.uint8))
    assert safe_ids(["a/b"]) == ["a-b"], "alone it is what it was"


def test_ids_are_found_however_they_are_written(tmp_path):
    accent = unicodedata.normalize("NFC", "café 1")
    finder = IdFinder({"7": "7", "caf--1": accent, "A-x": "A x", "0012": "0012"})
    texts = ("7.0", "007", unicodedata.normalize("NFD", accent), accent, "a x", "12")
    assert [finder.find(text) for text in texts] == ["7", "7", "caf--1", "caf--1", "A-x", "0012"]
    assert finder.find("8") is None
    assert IdFinder({"7": "7", "007": "007"}).find("07") is None, "which of two is not guessed"
    assert source_ids(["1.0", "1.5", "2.0"], False) == ["1.0", "1.5", "2.0"], "versions are no whole numbers"
    file = write(tmp_path / "p.csv", ["prompt_id", "prompt"], [["a b", "x"], ["c", "y"]])
    (tmp_path / "ids.txt").write_bytes("a b\r\nC\r\n".encode("utf-16"))
    assert len(load("csv", file, ids=str(tmp_path / "ids.txt")).rows) == 2


def test_training_prompts_are_the_words_of_the_bench(tmp_path):
    header, rows = ["", "Prompt", "seed"], [["0", "a café; or two", "5.0"], ["1", "a 'b', c", ""]]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file = tmp_path / f"{encoding}.csv"
        file.write_bytes(write(tmp_path / "p.csv", header, rows).read_bytes().decode().encode(encoding))
        bench, training = load("csv", file).rows, read_prompts(str(file))
        assert [row.prompt for row in training] == [row.prompt for row in bench] == [row[1] for row in rows]
        assert training[0].seed == bench[0].seed == 5
    file.write_bytes("prompt\ncafé\n".encode("latin-1"))
    said = []
    for read in (lambda: load("csv", file), lambda: read_prompts(str(file)), lambda: missing_prompts(str(file))):
        with pytest.raises(HarnessError, match="is not UTF-8 text") as caught:
            read()
        said.append(str(caught.value))
    assert len(set(said)) == 1


@pytest.mark.parametrize(("text", "said"), [
    ("prompt\na, b\n", "row 0 has 2 cells"), ("prompt,seed\na,1\n,2\n", "row 1: the prompt is empty"),
    ("promt\na\n", "Did you mean: prompt|needs a column 'prompt'.*promt"), ("prompt\n", "at least one row"),
    ("prompt,seed\na,-1\n", "row 0: seed '-1'"), ('prompt\n"a\n', "never closes"),
])  # fmt: skip
def test_bad_training_prompts_are_one_line_in_the_plan(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InvalidValueError, match=said):
        missing_prompts(str(tmp_path / "t.csv"))


def test_preset_columns_are_checked_as_settings():
    with pytest.raises(InvalidValueError, match=r"bench\.columns"):
        load_prompts(preset("micro_i2p") | {"columns": "prompt"})
    assert SHARED.name == "data"
