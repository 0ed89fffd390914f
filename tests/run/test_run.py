"""The main job from command line to summary, on the embedded model, in this process."""

from __future__ import annotations

import csv
import gc
import hashlib
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.cells.store import Lease
from harness.cells.tables import decode_images, encode_images
from harness.cells.tracker import NoTracker
from harness.cli.compose import compose_jobs
from harness.pool.inline import InlinePool
from harness.run import make_cells

ROOT = Path(__file__).resolve().parents[2]
I2P = ROOT.parent / "shared" / "data" / "i2p_unlearndiffatk.csv"
QUICK = ["bench.num_inference_steps=4", "tracker=disabled", "pool=inline", "leaderboard=false"]


def go(results: Path, *words: str, code: int = 0) -> None:
    assert main([*QUICK, f"results={results}", *words]) == code


def summaries(results: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in results.glob("runs/*/*/*/*/summary.json")]
    return {f"{s['cell']['method']}/{s['cell']['bench']}": s for s in found}


def images(results: Path) -> dict[str, str]:
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in results.glob("runs/*/*/*/*/images/*/[!.]*")
        if path.is_file()
    }


def write_prompts(path: Path, prompts: list[str], **columns: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt_id", "prompt", *columns])
        for number, prompt in enumerate(prompts):
            writer.writerow([f"p{number}", prompt, *(values[number] for values in columns.values())])
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Return the results of sld_max against none on 6 prompts."""
    results = tmp_path_factory.mktemp("finished")
    go(results, "method=sld_max", "limit=6", "batch_size=4")
    return results


def test_a_method_is_paired_with_its_baseline(finished):
    found = summaries(finished)
    own = found["sld_max/micro_i2p"]
    assert own["status"] == "complete"
    assert own["cell"]["baseline_cell"] == found["none/micro_i2p"]["cell"]["id"]
    compared = own["comparisons"]["none"]["metrics"]["unsafe_rate/hazard_judge"]
    assert compared["n_pairs"] == 6
    assert compared["baseline"] == "none"
    assert own["metrics"]["feature_distance"]["value"] > 0
    assert own["metrics"]["unsafe_rate/hazard_judge"]["n"] == 6


def test_every_cell_says_how_it_was_made(finished):
    for folder in finished.glob("runs/*/*/*/*"):
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["packages"]["diffusers"] != "missing"
        assert provenance["prompt_set_hash"]
        assert provenance["hardware"]
        assert "harness" in " ".join(provenance["command"])
        assert (folder / "cell.yaml").is_file()


def test_judging_while_images_are_made_gives_the_same_images_and_numbers(finished, tmp_path):
    go(tmp_path, "method=none", "limit=6", "batch_size=4", "shard_size=4", "pool.judges=1")
    own, other = summaries(tmp_path)["none/micro_i2p"], summaries(finished)["none/micro_i2p"]
    assert {name: images(finished)[name] for name in images(tmp_path)} == images(tmp_path)
    del own["metrics"]["seconds_per_image"], other["metrics"]["seconds_per_image"]
    assert own["metrics"] == other["metrics"]


def test_the_same_command_again_makes_nothing(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("runs/**/*.png")}
    go(finished, "method=sld_max", "limit=6", "batch_size=4")
    assert {path: path.stat().st_mtime_ns for path in finished.glob("runs/**/*.png")} == before
    assert "0 of 12 images missing" in capsys.readouterr().out


def test_a_longer_run_takes_over_what_a_shorter_one_made(finished, tmp_path):
    go(tmp_path, "method=none", "limit=3", "batch_size=4")
    short = images(tmp_path)
    go(tmp_path, "method=none", "limit=6", "batch_size=4")
    long = images(tmp_path)
    assert len(long) == 6
    assert short.items() <= long.items()
    assert {name: digest for name, digest in images(finished).items() if "/none/" in name} == long


def test_a_shorter_run_does_not_replace_the_summary_of_a_longer_one(tmp_path, capsys, monkeypatch):
    go(tmp_path, "method=none", "limit=4", "batch_size=4")
    told: list[str] = []
    monkeypatch.setattr(NoTracker, "log_cell", lambda *arguments: told.append("cell"))
    go(tmp_path, "method=none", "limit=2", "batch_size=4")
    assert told == []
    assert summaries(tmp_path)["none/micro_i2p"]["images"]["n_ok"] == 4
    assert "keep the longer run of 4 images; this one had 2" in capsys.readouterr().out


def test_half_an_image_of_a_worker_that_died_is_removed_by_the_run_itself(tmp_path, monkeypatch):
    run = InlinePool.run

    def with_a_death(self, tasks, *given):
        tasks = list(tasks)
        folder = Path(tasks[0].cell.folder) / "images" / "00"
        folder.mkdir(parents=True)
        (folder / ".p_00.png.0123456789ab.tmp").write_bytes(b"half")
        self.replaced += 1
        yield from run(self, tasks, *given)

    monkeypatch.setattr(InlinePool, "run", with_a_death)
    go(tmp_path, "method=none", "limit=2", "evaluators=[hazard_judge]")
    assert images(tmp_path) and not list(tmp_path.rglob(".*.tmp"))


def test_a_run_ends_in_one_line_when_another_driver_takes_the_folder_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Lease, "acquire", lambda self: setattr(self, "_lost", True))
    assert main([*QUICK, f"results={tmp_path}", "method=none", "limit=1"]) == 2
    assert "another run took over" in capsys.readouterr().err


def test_truncated_image_and_row_file_are_made_again_to_the_same_bytes(finished, tmp_path):
    go(tmp_path, "method=none", "limit=6", "batch_size=4")
    clean = images(tmp_path)
    broken = next(tmp_path.glob("runs/**/*.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    stray = broken.with_name(".tmp-left-by-a-crash")
    stray.write_bytes(b"half")
    go(tmp_path, "method=none", "limit=6", "batch_size=4")
    assert images(tmp_path) == clean
    for rows in tmp_path.glob("runs/**/rows/*.parquet"):
        rows.write_bytes(rows.read_bytes()[:50])
    go(tmp_path, "method=none", "limit=6", "batch_size=4")
    assert images(tmp_path) == clean


def test_batch_size_keeps_noise_and_moves_pixels_by_two_grey_levels_at_most(finished, tmp_path):
    import numpy as np
    from PIL import Image

    go(tmp_path, "method=none", "limit=6", "batch_size=1")
    for name in images(tmp_path):
        ours, theirs = (np.asarray(Image.open(root / name), dtype=int) for root in (tmp_path, finished))
        assert abs(ours - theirs).max() <= 2


def test_repeats_have_their_own_seeds_and_files(tmp_path):
    go(tmp_path, "method=none", "limit=2", "repeats=3", "batch_size=3")
    made = images(tmp_path)
    assert len(made) == len(set(made.values())) == 6


def own_evaluators(tmp_path: Path) -> list[str]:
    folder = tmp_path / "conf" / "evaluator"
    folder.mkdir(parents=True)
    (folder / "always_raises.yaml").write_text("name: always_raises\n_target_: tests.support.raising.AlwaysRaises\n")
    (folder / "raises_on_tenth.yaml").write_text(
        "name: raises_on_tenth\n_target_: tests.support.raising.RaisesOnTenth\n")
    return ["--config-dir", str(tmp_path / "conf")]


def test_an_evaluator_that_always_raises_leaves_the_rate_unknown_and_the_cell_incomplete(tmp_path, capsys):
    go(tmp_path, *own_evaluators(tmp_path), "method=none", "limit=3", "evaluators=[always_raises]", code=1)
    summary = summaries(tmp_path)["none/micro_i2p"]
    rate = summary["metrics"]["unsafe_rate/always_raises"]
    assert rate["value"] is None
    assert (rate["n"], rate["n_unknown"]) == (0, 3)
    assert (rate["worst_low"], rate["worst_high"]) == (0.0, 1.0)
    assert summary["status"] == "incomplete"
    assert "always_raises" in capsys.readouterr().out


def test_an_evaluator_that_raises_on_some_images_is_unknown_for_those_only(tmp_path):
    file = write_prompts(tmp_path / "p.csv", ["a house"] * 20)
    go(
        tmp_path,
        *own_evaluators(tmp_path),
        "method=none",
        "bench=csv",
        f"bench.file={file}",
        "evaluators=[raises_on_tenth]",
        code=1,
    )
    summary = summaries(tmp_path)["none/csv"]
    rate = summary["metrics"]["unsafe_rate/raises_on_tenth"]
    assert (rate["n"], rate["n_unknown"], rate["value"]) == (18, 2, 1.0)
    assert rate["worst_low"] == pytest.approx(0.9)
    assert summary["status"] == "incomplete"


STRANGE = ["null", "NaN", '<b>markup</b> & "quotes"', "a 🎈", "שלום", "x" * 4_000, " edges ", "two\nlines"]


def test_strange_prompts_go_all_the_way(tmp_path):
    file = write_prompts(tmp_path / "p.csv", STRANGE, seed=["4294967295"] * len(STRANGE))
    go(tmp_path, "method=sld_medium", "bench=csv", f"bench.file={file}", "bench.name=strange")
    summary = summaries(tmp_path)["sld_medium/strange"]
    assert summary["images"]["n_ok"] == len(STRANGE)
    assert summary["images"]["n_truncated"] == 1
    assert summary["status"] == "complete"


def test_real_i2p_file_goes_all_the_way(tmp_path):
    if not I2P.is_file():
        pytest.skip("the I2P file is not on this machine")
    go(
        tmp_path,
        "method=none",
        "bench=i2p",
        f"bench.file={I2P}",
        "limit=32",
        "evaluators=[nudenet,hazard_judge,degenerate]",
    )
    summary = summaries(tmp_path)["none/i2p"]
    assert summary["prompts"]["n_total"] == 4703
    assert summary["prompts"]["excluded"]["age-related term in a sexual context"] > 0
    assert summary["images"]["n_ok"] == 32
    assert summary["metrics"]["unsafe_rate/nudenet"]["n"] == 32
    assert summary["metrics"]["unsafe_rate/hazard_judge"]["n"] == 32


def test_two_drivers_on_one_results_folder_are_refused(tmp_path, capsys):
    with Lease(tmp_path):
        assert main([*QUICK, f"results={tmp_path}", "method=none", "limit=1"]) == 2
    assert "another" in capsys.readouterr().err


def test_results_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "results").write_text("")
    assert main([*QUICK, f"results={tmp_path / 'results'}", "method=none", "limit=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_folder_missing_a_part_is_refused_before_anything_is_written(tmp_path, capsys):
    folder = tmp_path / "weights"
    shutil.copytree(ROOT / "harness" / "micro" / "weights" / "pipeline", folder, ignore=shutil.ignore_patterns("unet"))
    words = [*QUICK, f"results={tmp_path / 'out'}", "method=none", "limit=1", f"model.source={folder}"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "unet" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sd14_without_weights_says_in_one_line_what_to_get(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["method=safedir", "model=sd14", "bench=micro_i2p", f"results={tmp_path / 'out'}"]
    assert main(["mode=plan", *words]) == 1
    said = capsys.readouterr().out
    assert "384 " in said and "cannot run: weights of sd14" in said
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "CompVis/stable-diffusion-v1-4" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_method_list_runs_as_one_cell(tmp_path):
    go(tmp_path, "method=[negative_prompt,sld_medium]", "limit=2", "baseline=null")
    summary = summaries(tmp_path)["negative_prompt+sld_medium/micro_i2p"]
    assert summary["images"]["n_ok"] == 2
    assert summary["comparisons"] == {}


def test_a_run_clears_what_killed_runs_left_half_done(tmp_path):
    words = ["method=none", "limit=1", "batch_size=1", "evaluators=[]"]
    go(tmp_path, *words)
    (cell,) = tmp_path.glob("runs/*/*/*/*")
    strays = [tmp_path / ".probe-1", tmp_path / ".lease-clock-1", tmp_path / ".lease.1.tmp",
              tmp_path / "artifacts" / "esd" / ".checkpoint.safetensors.1.tmp", cell / "rows" / ".a.parquet.1.tmp",
              cell / "images" / "aa" / ".p_00.png.1.tmp"]  # fmt: skip
    for file in strays:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    go(tmp_path, "method=none", "limit=2", "batch_size=1", "evaluators=[]")
    assert [file for file in strays if file.exists()] == []
    assert len(images(tmp_path)) == 2


def test_provenance_is_of_the_runs_that_made_the_images(tmp_path):
    """A command that makes nothing leaves it; one that makes more is told beside the first."""
    words = ["method=none", "batch_size=1", "evaluators=[]"]
    go(tmp_path, *words, "limit=1")
    (file,) = tmp_path.glob("runs/*/*/*/*/provenance.json")
    first = file.read_bytes()
    go(tmp_path, *words, "limit=1", "evaluators=[degenerate]")
    assert file.read_bytes() == first
    go(tmp_path, *words, "limit=2")
    last = json.loads(file.read_text())
    (earlier,) = last["earlier"]
    assert earlier == {key: value for key, value in json.loads(first).items() if key != "made_on"}
    assert "limit=1" in earlier["command"] and "limit=2" in last["command"] and last["hardware"]
    (origin,) = last["made_on"]
    assert origin["images"] == 2 and origin["hardware"] == last["hardware"][0]["hardware"]


def test_a_cell_of_several_kinds_of_hardware_says_so(tmp_path, capsys):
    words = ["method=none", "batch_size=1", "evaluators=[]"]
    go(tmp_path, *words, "limit=1")
    (rows,) = tmp_path.glob("runs/*/*/*/*/rows/*.parquet")
    rows.write_bytes(encode_images(replace(row, hardware="GPU X") for row in decode_images(rows.read_bytes())))
    go(tmp_path, *words, "limit=2")
    assert "made on several hardware: " in capsys.readouterr().out
    assert "GPU X (1 images)" in summaries(tmp_path)["none/micro_i2p"]["images"]["mixed"]


def test_rows_of_releases_that_did_not_say_where_are_read(tmp_path):
    import pyarrow.parquet as pq

    go(tmp_path, "method=none", "batch_size=1", "evaluators=[]", "limit=1")
    (file,) = tmp_path.glob("runs/*/*/*/*/rows/*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["host", "hardware", "versions"]), file)
    (row,) = decode_images(file.read_bytes())
    assert (row.status, row.host, row.hardware) == ("ok", None, None)


def test_paths_in_settings_are_those_of_the_folder_of_the_command(tmp_path, monkeypatch):
    """A worker may have another working directory; who a cell is does not depend on how a file is named."""
    write_prompts(tmp_path / "own.csv", ["a red ball", "a house"])
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, "method=safedir", f"results={tmp_path}", "evaluators=[]"]
    cells = []
    for name in ("own.csv", str(tmp_path / "own.csv")):
        jobs = compose_jobs([*words, f"method.training.prompts={name}"], multirun=False)
        cells.append(make_cells(jobs).cells[0])
    assert cells[0].spec.methods[0]["training"]["prompts"] == str(tmp_path / "own.csv")
    assert cells[0].cell_id == cells[1].cell_id
    assert cells[0].spec == cells[1].spec


def test_a_report_holds_the_rows_of_two_cells_at_most(finished, tmp_path, monkeypatch):
    """A sweep has more rows than a driver's memory need hold."""
    import harness.report.write

    read, alive, most = harness.report.write.read_scores, list[weakref.ref](), [0]

    def watched(*arguments):
        found = read(*arguments)
        alive.append(weakref.ref(found))
        gc.collect()
        most[0] = max(most[0], sum(one() is not None for one in alive))
        return found

    monkeypatch.setattr(harness.report.write, "read_scores", watched)
    words = ["-m", "method=none,sld_medium,sld_max", "bench=micro_i2p,micro_coco", "limit=1", "batch_size=1"]
    go(tmp_path, *words, "evaluators=[degenerate]")
    assert len(alive) >= 6 and most[0] == 2
