"""What needs weights that are not on this machine says so in the plan, and is neither silently absent nor zero."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.cells.plan import make_plan, print_plan, unavailable
from harness.cells.store import CellStore, attempt_id
from harness.cli.compose import compose_jobs
from harness.records import ImageRow, Status
from harness.run import make_cells
from harness.summary import read_scores, summarise
from tests.support.evaluator_fixtures import picture

NEEDING = ("clip_score", "clip_score_sdd", "clip_score_uce", "clip_score_unlearndiffatk", "clip_score_heim",
           "clip_score_clipscore", "clip_score_evalgim", "clip_image_similarity", "pick_score", "vqa_score", "lpips",
           "lpips_esd64", "lpips_native512", "fid", "fid_clip")  # fmt: skip


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A cell with every evaluator of NEEDING, on a machine without any weights."""
    folder = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        yield make_cells(compose_jobs(words(folder), multirun=False)).cells[0]


def words(folder):
    names = ",".join((*NEEDING, "clip_score_micro"))
    inception = f"{{_target_: harness.evaluators.inception.CleanFidInception, folder: {folder}}}"
    return ["method=none", "model=micro", "bench=micro_coco", f"bench.evaluators=[{names}]", "limit=1",
            f"evaluator.fid.extractor={inception}", f"results={folder / 'results'}"]  # fmt: skip


def test_every_evaluator_that_lacks_weights_is_named_in_the_plan_with_how_to_get_them(cell, tmp_path):
    assert set(unavailable(cell)) == set(NEEDING)
    stream = io.StringIO()
    print_plan(make_plan([cell], tmp_path, 1, verify=False), Console(file=stream, width=400), full=True)
    lines = stream.getvalue().splitlines()
    for name in NEEDING:
        (line,) = [line for line in lines if line.startswith(f"note: evaluator {name} not available:")]
        assert "hf download" in line or "curl" in line
    assert not any("clip_score_micro not available" in line for line in lines)


def test_a_summary_says_not_available_and_holds_no_number_of_it(cell):
    store, (item,) = CellStore(cell.folder), cell.items()
    kept = store.write_image(item.key, picture(0))
    row = ImageRow(item.key.prompt_id, 0, item.prompt, (), item.seed, 5.0, kept.file, kept.sha256, kept.size, Status.OK,
                   None, 1.0, 1, "test")  # fmt: skip
    store.append_images(attempt_id("test"), [row])
    skip = unavailable(cell)
    summary = summarise(read_scores(cell, skip, {}), None, skip, {})
    for name in NEEDING:
        assert summary["evaluators"][name]["status"] == "not available"
        assert summary["evaluators"][name]["note"] == skip[name]
    absent = ("fid", "kid", "lpips", "pick_score", "vqa_score", "clip_image_similarity")
    assert not any(metric.split("/")[0] in absent for metric in summary["metrics"])
    assert not any(metric["value"] == 0 for name, metric in summary["metrics"].items() if "score" in name)
