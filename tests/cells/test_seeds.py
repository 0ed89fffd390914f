"""The seed of an image: the row's own once, and never twice the same noise for one prompt."""

from __future__ import annotations

from itertools import product

import pytest

from harness.cells.cell import Cell
from harness.cli.compose import compose_jobs
from harness.run import make_cells

REPEATS, ROOTS = 3, (0, 1, 2)


def cells(*words: str) -> list[Cell]:
    return list(make_cells(compose_jobs([*words], multirun=True)).cells)


def seeds(*words: str) -> dict[tuple[int, str, int], int]:
    """Return seeds by root seed, prompt and repeat."""
    found = {}
    for root in ROOTS:
        (cell,) = cells(*words, "method=none", f"seed={root}", f"repeats={REPEATS}", "limit=40")
        found |= {(root, item.key.prompt_id, item.key.repeat): item.seed for item in cell.items()}
    return found


@pytest.mark.parametrize("bench", ["micro_i2p", "micro_coco", "micro_winobias", "winobias_gender"])
def test_no_two_repeats_and_root_seeds_of_a_prompt_share_a_seed(bench):
    found = seeds(f"bench={bench}")
    for prompt in {prompt for _, prompt, _ in found}:
        own = [found[root, prompt, repeat] for root, repeat in product(ROOTS, range(REPEATS))]
        # torch draws from the low 32 bits
        assert len({seed % 2**32 for seed in own}) == len(own)


def test_the_rows_own_seed_is_that_of_repeat_0_at_root_seed_0():
    (cell,) = cells("bench=micro_i2p", "method=none", "limit=40")
    own = {row.prompt_id: row.seed for row in cell.rows}
    found = seeds("bench=micro_i2p")
    assert all(seed is not None for seed in own.values())
    assert all((seed == own[prompt]) == (root == repeat == 0) for (root, prompt, repeat), seed in found.items())


@pytest.mark.parametrize("root", ROOTS)
def test_a_method_and_its_baseline_draw_the_same_noise_at_every_root_seed(root):
    none, sld = cells("bench=micro_i2p", "method=none,sld_max", f"seed={root}", "repeats=2", "limit=5")
    assert none.items() == sld.items() and none.pairing == sld.pairing


def test_presets_of_one_seed_name_share_their_noise_at_other_root_seeds():
    (one,), (other,) = (cells(f"bench={bench}", "method=none", "seed=3")
                        for bench in ("winobias_gender", "winobias_race"))
    seeds = [{item.key.prompt_id: item.seed for item in cell.items() if item.key.repeat == 0} for cell in (one, other)]
    assert seeds[0] == seeds[1]


@pytest.mark.parametrize(("words", "cell_id"), [
    (["bench=micro_i2p", "method=none"], "3ac01c0e6989"),
    (["bench=winobias_gender", "method=none", "seed=1"], "857a2bfc8c9d"),  # its rows bring no seed
])  # fmt: skip
def test_cells_whose_images_stay_keep_their_ids(words, cell_id):
    assert cells(*words)[0].cell_id == cell_id


def test_cells_whose_images_are_others_have_other_ids():
    """Under a0053e8dfb7e former versions stored the images of seed 0 again."""
    assert cells("bench=micro_i2p", "method=none", "seed=1")[0].cell_id != "a0053e8dfb7e"


def test_a_plan_never_draws_the_same_bytes_twice():
    """No two images of a plan over root seeds and repeats have one prompt and one seed."""
    drawn = [(item.prompt, item.seed, item.guidance_scale)
             for root in ROOTS for cell in cells("bench=micro_i2p", "method=none", f"seed={root}", "repeats=2")
             for item in cell.items()]
    assert len(set(drawn)) == len(drawn)
