"""I2P and what is cut out of it: every row, label and seed; rows by category, by value and by case number."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import replace
from functools import cache

import pytest

from harness.bench import screen
from harness.cells.making import make_cell
from harness.cli.compose import compose_jobs
from harness.errors import HarnessError, InvalidValueError, UnknownNameError
from harness.lib.paths import datasets_dir
from tests.support.bench_common import load, load_real, preset, read_yaml, real_file, write

WHOLE = "i2p_unlearndiffatk.csv"
HEADER = ["case_number", "prompt", "categories", "hard", "evaluation_seed", "evaluation_guidance", "sd_image_width",
          "sd_image_height"]  # fmt: skip
ROWS = [
    ["7", "a house", "hate", "1", "4290749014", "255", "512", "512"],
    ["9", "a tree", "hate, violence", "0", "3", "1", "512", "384"],
    ["12", "null", "shocking", "1", "3", "7", "128", "128"],
    ["13", "a tree", "sexual", "1.0", "5", "7", "512", "512"],
]


@pytest.fixture
def small(tmp_path):
    return write(tmp_path / "i2p.csv", HEADER, ROWS)


def ids(prompts) -> list[str]:
    return [row.prompt_id for row in prompts.rows]


@cache
def job():
    return compose_jobs(["method=none"], multirun=False)[0]


def cell_of(name: str, file=None, repeats: int | None = None, **overrides):
    """Return the cell of a preset on micro; without `file`, as where its prompts are not on this machine."""
    settings = {**job().settings, "repeats": repeats}
    config = preset(name, **overrides)
    prompts = load(name, file, **overrides) if file else None
    return make_cell(replace(job(), settings=settings, bench=config, evaluators=()), prompts)


def all_rows():
    """Return every row of the file, those that are excluded too."""
    text = real_file(WHOLE).read_text(encoding="utf-8-sig")

    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_i2p_has_the_counts_that_its_card_states():
    prompts = load_real("i2p", WHOLE)
    card = read_yaml(datasets_dir() / "i2p.yaml")["categories"]
    raw = all_rows()
    for name, counts in card.items():
        rows = [row for row in raw if name == "all" or name in row["categories"].split(", ")]
        hard = sum(int(row["hard"]) for row in rows)
        assert (len(rows), len({row["prompt"] for row in rows}), hard) == tuple(counts.values()), name
    assert prompts.n_total == prompts.n_file == 4703
    assert sum(prompts.excluded.values()) + len(prompts.rows) == 4703


def test_i2p_loses_no_prompt_to_a_null_like_text():
    prompts = load_real("i2p", WHOLE)
    assert set(prompts.excluded) == {screen.REASON}
    assert len(next(row.prompt for row in prompts.rows if row.prompt_id == "2260")) == 4


def test_i2p_seeds_and_guidance_come_through_whole():
    rows = load_real("i2p", WHOLE).rows
    assert sum(row.seed > 2**31 - 1 for row in rows) > 2000
    assert max(row.seed for row in rows) == 4_290_749_014
    assert max(row.guidance for row in rows) == 255
    assert sum(row.size != (512, 512) for row in rows) > 40


def test_hard_and_sexual_subsets_are_cut_by_their_cards():
    hard, sexual = load_real("i2p_hard", WHOLE), load_real("i2p_sexual", WHOLE)
    assert (hard.n_total, sexual.n_total) == (1831, 931)
    assert {row.meta["hard"] for row in hard.rows} == {"1"}
    assert all("sexual" in row.category for row in sexual.rows)
    assert sexual.excluded == {screen.REASON: 931 - len(sexual.rows)}
    assert any(f"({screen.VERSION})" in note for note in sexual.notes())
    assert sexual.counts()["screen"] == screen.VERSION


def test_categories_choose_rows_that_have_any_of_them(small):
    assert ids(load("i2p", small, categories=["violence", "shocking"])) == ["9", "12"]
    chosen = load("i2p", small, categories=["hate"])
    assert (ids(chosen), chosen.n_file, chosen.n_total) == (["7", "9"], 4, 2)
    assert "i2p: 2 of the file's 4 rows" in chosen.notes()
    with pytest.raises(UnknownNameError, match="Did you mean: violence"):
        load("i2p", small, categories=["violense"])
    with pytest.raises(InvalidValueError, match=r"bench\.categories=hate: expected a list"):
        load("i2p", small, categories="hate")


def test_where_compares_numbers_as_numbers_and_names_the_columns(small):
    assert ids(load("i2p", small, where={"hard": 1})) == ["7", "12", "13"]
    assert ids(load("i2p_hard", small)) == ["7", "12", "13"]
    with pytest.raises(UnknownNameError, match="hard"):
        load("i2p", small, where={"hrad": 1})


def test_duplicates_are_kept_and_said(small):
    prompts = load("i2p", small)
    assert (len(prompts.rows), prompts.n_duplicate_prompts) == (4, 1)
    assert "i2p: 1 duplicate prompt, kept" in prompts.notes()


def test_row_preset_takes_each_rows_guidance_capped_and_size(small):
    items = cell_of("i2p_row", small).items()
    assert [(i.guidance_scale, i.size) for i in items] == [
        (20.0, (512, 512)), (1.01, (512, 384)), (7.0, (128, 128)), (7.0, (512, 512)),
    ]  # fmt: skip
    assert [(i.guidance_scale, i.size) for i in cell_of("i2p", small).items()] == [(5.0, None)] * 4
    assert cell_of("i2p_row", small).cell_id != cell_of("i2p_row", small, size=512).cell_id


def test_ten_repeats_start_at_the_rows_seed_and_share_noise_between_presets(small):
    one, ten = (cell_of("i2p", small, repeats=n).items() for n in (1, 10))
    assert (len(one), len(ten)) == (4, 40)
    assert [i.seed for i in ten[:4]] == [i.seed for i in one] == [4_290_749_014, 3, 3, 5]
    assert len({i.seed for i in ten[4:]}) == 36
    hard = {i.key: i.seed for i in cell_of("i2p_hard", small, repeats=10).items()}
    assert hard == {i.key: i.seed for i in ten if i.key in hard}


def test_a_bench_without_its_file_plans_by_the_cards_rows():
    assert cell_of("i2p_sexual").n_images == 931
    assert cell_of("i2p", repeats=10).n_images == 47_030
    assert cell_of("i2p", categories=["sexual"]).n_images is None, "labels overlap: the card cannot say"


@pytest.mark.parametrize("size", [("512", "500"), ("0", "512"), ("wide", "512"), ("512", "9000")])
def test_a_size_that_no_model_draws_names_its_row(tmp_path, size):
    path = write(tmp_path / "p.csv", ["prompt", "sd_image_width", "sd_image_height"], [["a", *size]])
    with pytest.raises(InvalidValueError, match="row 0: size"):
        load("i2p", path)


def test_unlearndiffatk_is_142_case_numbers_of_i2p():
    numbers = real_file("unlearndiffatk_nudity_case_numbers.txt")
    prompts = load("unlearndiffatk_static", real_file(WHOLE), ids=str(numbers))
    assert (prompts.n_file, prompts.n_total) == (4703, 142)
    assert sum("sexual" in row.category for row in prompts.rows) == 116 - sum(
        "sexual" in next(r["categories"] for r in all_rows() if r["case_number"] == one)
        for one in prompts.excluded_ids.get(screen.REASON, ())
    )
    assert "ids" not in (prompts.file_note or "")
    others = numbers.read_text().split()[:-1]
    assert "141 ids are not the card's 142" in load("unlearndiffatk_static", real_file(WHOLE), ids=others).file_note


def test_the_list_of_case_numbers_is_asked_for_and_checked(tmp_path):
    path = write(tmp_path / "i2p.csv", HEADER[:2], [[str(n), "a house"] for n in range(143)])
    with pytest.raises(HarnessError, match=r"142 rows, but .* has 143.*bench\.ids="):
        load("unlearndiffatk_static", path)
    with pytest.raises(HarnessError, match=r"1 of 2 ids are not in .*: 999"):
        load("unlearndiffatk_static", path, ids=["3", "999"])
    few = load("unlearndiffatk_static", path, ids=["3", "1"])
    assert ids(few) == ["1", "3"]
    assert "the 2 ids are not the card's 142" in few.file_note


def test_unlearndiffatk_samples_at_the_rows_guidance(small):
    assert preset("unlearndiffatk_static")["guidance_scale"] == "row"
    items = cell_of("unlearndiffatk_static", small).items()
    assert [(i.seed, i.guidance_scale, i.size) for i in items][:2] == [(4_290_749_014, 20.0, None), (3, 1.01, None)]


def test_a_text_beside_the_prompt_can_exclude_it_too(tmp_path):
    rows = [["qx zt", "a teen in a field"], ["qx zt", "an adult in a field"]]
    path = write(tmp_path / "p.csv", ["prompt", "target_prompt"], rows)
    assert load("i2p_sexual", write(tmp_path / "q.csv", ["prompt", "target_prompt", "categories"],
                [[*row, "sexual"] for row in rows])).excluded == {screen.REASON: 1}  # fmt: skip
    assert load("csv", path).excluded == {}, "no sexual context"


def test_hash_of_a_file_does_not_depend_on_its_sizes_being_read(small):
    assert load("i2p", small).hash == load("i2p", small, columns={"width": False, "height": False}).hash
    assert hashlib.sha256(small.read_bytes()).hexdigest() == load("i2p", small).file_sha256
