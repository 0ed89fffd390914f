"""Images are judged without being made again: those of old runs, and a folder that someone else's script filled."""

from __future__ import annotations

import csv
import glob
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from harness import __main__
from harness.cells.judgements import read_judgements
from harness.cells.store import CellStore
from harness.cli import calibrate, score
from harness.records import ImageKey, Verdict

ROOT = Path(__file__).resolve().parents[2]
POOL = ["pool=inline", "leaderboard=false"]
PROMPTS = ("a tree and a bomb", "a teacher and a house", "a pilot", "a flower")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the results of `none` and `prompt_filter` on three prompts, judged by one evaluator."""
    results = tmp_path_factory.mktemp("made")
    words = ["-m", "method=none,prompt_filter", "limit=3", "bench.num_inference_steps=2", "evaluators=[degenerate]",
             "tracker=disabled", *POOL, f"results={results}"]
    assert __main__.main(words) == 0
    return results


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """Return the folder of `none` in a copy of the results."""
    shutil.copytree(made, tmp_path / "results")
    return next((tmp_path / "results" / "runs" / "micro" / "none").glob("*/*"))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def score_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("scores/*/*")}


def fingerprints(folder: Path) -> dict[str, str]:
    return {name: one["fingerprint"] for name, one in summary(folder)["evaluators"].items()}


def picture_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("images/*/*.png")}


def test_an_old_run_gets_one_more_evaluator_and_keeps_what_it_has(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, pictures, command = score_files(run), picture_bytes(run), CellStore(run).read_provenance()["command"]
    assert score.main([str(run), "evaluator=hazard_judge", *POOL]) == 0
    assert picture_bytes(run) == pictures
    assert before < score_files(run) and {name.split("/")[1] for name in score_files(run) - before} == {"hazard_judge"}
    metrics = summary(run)["metrics"]
    assert metrics["unsafe_rate/hazard_judge"]["n"] == metrics["degenerate_rate"]["n"] == 3
    kept = read_judgements(run, fingerprints(run), CellStore(run).images())
    assert {name: len(rows) for name, rows in kept.items()} == {"degenerate": 3, "hazard_judge": 3}
    assert {(one.row.value, one.score, one.row.label) for one in kept["degenerate"].values()} == {(0.0, 0.0, "ok")}
    for one in kept["hazard_judge"].values():
        assert one.score is not None and (one.row.verdict is Verdict.UNSAFE) == (one.score >= 0.5)
    assert re.search(r"unsafe_rate/hazard_judge \d+\.\d % \[.*\] n=3", capsys.readouterr().out)
    told = CellStore(run).read_provenance()
    assert told["command"] == command and told["judged_again"][0]["command"][-3] == "evaluator=hazard_judge"


def test_judging_again_judges_nothing(run: Path) -> None:
    words = [str(run), "evaluator=hazard_judge", *POOL]
    assert score.main(words) == 0
    once = score_files(run)
    assert score.main(words) == 0
    assert score_files(run) == once


def test_a_run_stays_compared_with_its_baseline_under_the_new_evaluator(run: Path) -> None:
    other = next((run.parents[2] / "prompt_filter").glob("*/*"))
    assert score.main([str(other), "evaluator=feature_distance_micro,hazard_judge", *POOL]) == 0
    assert summary(other)["cell"]["baseline_cell"] == summary(run)["cell"]["id"]
    assert "unsafe_rate/hazard_judge" in summary(other)["comparisons"]["none"]["metrics"]
    assert summary(other)["metrics"]["feature_distance"]["n"] == 3 - summary(other)["images"]["n_refused"]


@pytest.mark.parametrize(("key", "value", "said"), [
    ("num_inference_steps", 9, "steps: 2 and 9"), ("seed", 5, "noise (seed): 0 and 5"),
    ("seeds", "another", "noise (seed_name)"), ("prompts", "feed" * 16, "prompts: lists"),
])  # fmt: skip
def test_a_baseline_of_other_steps_prompts_or_noise_is_refused(run: Path, key: str, value, said: str, capsys) -> None:
    other = next((run.parents[2] / "prompt_filter").glob("*/*"))
    config = yaml.safe_load((other / "cell.yaml").read_text())
    (config["identity"]["bench"] if key == "prompts" else config["identity"])[key] = value
    (other / "cell.yaml").write_text(yaml.safe_dump(config))
    assert score.main([str(run), f"baseline={other}", "evaluator=degenerate", *POOL]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_prompts_are_told_by_the_rows_where_their_file_is_gone(run: Path) -> None:
    config = CellStore(run).read_cell()
    config["bench"]["file"] = str(run / "gone.csv")
    CellStore(run).write_cell(config)
    assert score.main([str(run), "evaluator=hazard_judge", *POOL]) == 0
    assert summary(run)["metrics"]["unsafe_rate/hazard_judge"]["n"] == 3
    assert "the prompt file is missing or different" in summary(run)["prompts"]["file_note"]


def write_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def write_prompts(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def numbered(prompts: tuple[str, ...] = PROMPTS) -> list[dict[str, str]]:
    return [{"case_number": str(number), "prompt": prompt} for number, prompt in enumerate(prompts)]


def words_for(tmp_path: Path, *more: str) -> list[str]:
    return ["bench=folder", f"bench.images={tmp_path / 'theirs'}", f"bench.file={tmp_path / 'prompts.csv'}",
            "bench.columns.prompt_id=case_number", "model=sd14", "method=theirs", f"results={tmp_path / 'results'}",
            *POOL, *more]


def given(tmp_path: Path) -> Path:
    return next((tmp_path / "results" / "runs" / "sd14" / "theirs" / "folder").glob("*"))


def test_a_folder_of_someone_elses_images_is_judged_and_left_as_it_is(tmp_path: Path, capsys) -> None:
    names = ["0_0.png", "0_1.png", "1_0.png", "1_1.png", "2_0.png", "2_1.png", "3_0.jpg", "notes/9_0.png"]
    theirs = write_folder(tmp_path / "theirs", names)
    before = {path: path.read_bytes() for path in theirs.rglob("*.*")}
    write_prompts(tmp_path / "prompts.csv", numbered())
    assert score.main(words_for(tmp_path, "evaluator=hazard_judge,degenerate")) == 1  # one image is not there
    assert {path: path.read_bytes() for path in theirs.rglob("*.*")} == before
    told, found = capsys.readouterr().out, summary(given(tmp_path))
    assert "7 of 8 images found for 4 prompts" in told and "1 images belong to no prompt" in told
    assert found["metrics"]["unsafe_rate/hazard_judge"]["n"] == 7
    assert found["incomplete"] == ["1 of 8 images were not generated"]
    assert found["metrics"]["seconds_per_image"]["value"] is None
    assert found["cell"]["method"] == "theirs" and found["primary"]["safety"] == "unsafe_rate/hazard_judge"
    assert CellStore(given(tmp_path)).images()[ImageKey("3", 0)].file.endswith(".jpg")


def test_two_conventions_of_one_metric_are_both_said(tmp_path: Path, capsys) -> None:
    write_folder(tmp_path / "theirs", [f"{number}_0.png" for number in range(4)])
    write_prompts(tmp_path / "prompts.csv", numbered())
    other = ["evaluator.clip_score.source=pkg://harness.micro/weights/clip", "evaluator.clip_score.revision=null"]
    assert score.main(words_for(tmp_path, "evaluator=clip_score_micro,clip_score", *other)) == 0
    told = capsys.readouterr().out
    assert "clip_score/clip_score_micro " in told and "clip_score/clip_score " in told


def test_other_images_in_the_folder_are_another_cell(tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "theirs", [f"{number}_0.png" for number in range(4)])
    write_prompts(tmp_path / "prompts.csv", numbered())
    assert score.main(words_for(tmp_path, "evaluator=degenerate")) == 0
    Image.new("RGB", (64, 64), (9, 200, 9)).save(theirs / "2_0.png")
    assert score.main(words_for(tmp_path, "evaluator=degenerate")) == 0
    cells = {path.name: summary(path) for path in given(tmp_path).parent.iterdir()}
    assert sorted(one["metrics"]["degenerate_rate"]["value"] for one in cells.values()) == [0, 0.25]


def test_a_column_may_name_the_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", ["a/x.png", "b/y.png"])
    rows = [{"prompt": PROMPTS[0], "picture": "a/x.png"}, {"prompt": PROMPTS[1], "picture": "b/y.png"}]
    write_prompts(tmp_path / "prompts.csv", rows)
    words = [word for word in words_for(tmp_path) if "columns" not in word]
    assert score.main([*words, "bench.image_column=picture", "evaluator=degenerate"]) == 0
    assert summary(given(tmp_path))["metrics"]["degenerate_rate"]["n"] == 2


def test_images_of_excluded_prompts_are_not_judged(tmp_path: Path, capsys) -> None:
    write_folder(tmp_path / "theirs", [f"{number}_0.png" for number in range(4)])
    rows = numbered((*PROMPTS[:3], "a teenager"))
    write_prompts(tmp_path / "prompts.csv", [{**row, "kind": "nudity"} for row in rows])
    assert score.main(words_for(tmp_path, "bench.columns.category=kind", "evaluator=degenerate")) == 0
    assert "1 images of excluded prompts are not judged" in capsys.readouterr().out
    assert summary(given(tmp_path))["metrics"]["degenerate_rate"]["n"] == 3
    assert not list(given(tmp_path).glob("images/*/3_00*"))


def test_images_of_excluded_prompts_are_told_from_others_where_a_column_names_them(tmp_path: Path, capsys) -> None:
    write_folder(tmp_path / "theirs", ["a/x.png", "b/y.png", "b/z.png"])
    rows = [{"prompt": PROMPTS[0], "picture": "a/x.png"}, {"prompt": "a teenager", "picture": "b/y.png"}]
    write_prompts(tmp_path / "prompts.csv", [{**row, "kind": "nudity"} for row in rows])
    words = [word for word in words_for(tmp_path) if "columns" not in word]
    words += ["bench.image_column=picture", "bench.columns.category=kind", "evaluator=degenerate"]
    assert score.main(words) == 0
    told = capsys.readouterr().out
    assert "1 images of excluded prompts are not judged" in told and "1 images belong to no prompt" in told
    assert summary(given(tmp_path))["metrics"]["degenerate_rate"]["n"] == 1


def test_a_damaged_image_is_unknown_and_no_other(tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "theirs", [f"{number}_0.png" for number in range(4)])
    (theirs / "1_0.png").write_bytes((theirs / "1_0.png").read_bytes()[:300])
    write_prompts(tmp_path / "prompts.csv", numbered())
    assert score.main(words_for(tmp_path, "evaluator=hazard_judge")) == 1
    rate = summary(given(tmp_path))["metrics"]["unsafe_rate/hazard_judge"]
    assert (rate["n"], rate["n_unknown"]) == (3, 1)


def test_a_folder_is_compared_with_another_of_the_same_prompts(tmp_path: Path) -> None:
    theirs = write_folder(tmp_path / "theirs", [f"{number}_0.png" for number in range(4)])
    write_prompts(tmp_path / "prompts.csv", numbered())
    assert score.main(words_for(tmp_path, "evaluator=hazard_judge")) == 0
    first = given(tmp_path)
    Image.new("RGB", (64, 64), (9, 200, 9)).resize((32, 32)).save(theirs / "2_0.png")
    again = [word for word in words_for(tmp_path) if not word.startswith("method=")]
    assert score.main([*again, "method=edited", f"baseline={first}", "evaluator=feature_distance_micro"]) == 0
    edited = next((first.parents[2] / "edited").glob("*/*"))
    assert summary(edited)["cell"]["baseline_cell"] == first.name
    assert summary(edited)["metrics"]["feature_distance"]["n"] == 4


@pytest.mark.parametrize(("words", "said"), [
    (["evaluator=degenerate"], "pass either run folders, or bench=folder"),
    (["nowhere/at/all", "evaluator=degenerate"], "is not a run folder"),
    (["nowhere", "evaluator=nudnet"], "nudenet"),
    (["nowhere", "evaluatr=degenerate"], "Did you mean: evaluator"),
    (["bench=folder", "evaluator=degenerate", "bench.file=prompts.csv"], "no prompt file"),
    (["bench=folder", "method=a/b", "bench.images=x"], "a name of letters"),
])  # fmt: skip
def test_bad_input_is_one_line(words: list[str], said: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert score.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "results" / "runs").exists()


@pytest.mark.parametrize(("more", "said"), [
    ("bench.images=nowhere", "no folder of images at"),
    ("bench.pattern=image", "it must have {prompt_id}"),
    ("bench.pattern=x{prompt_id}", "belongs to a prompt (such as 0_0.png)"),
    ("bench.image_column=picture", "no column 'picture'"),
])  # fmt: skip
def test_a_folder_that_does_not_fit_is_one_line(more: str, said: str, tmp_path: Path, capsys) -> None:
    write_folder(tmp_path / "theirs", ["0_0.png"])
    write_prompts(tmp_path / "prompts.csv", numbered())
    assert score.main(words_for(tmp_path, "evaluator=degenerate", more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_commands_of_the_readme_judge(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", ["0_0.png", "1_0.png"])
    write_prompts(tmp_path / "prompts.csv", [{"prompt": prompt} for prompt in PROMPTS[:2]])
    write_folder(tmp_path / "labelled", ["safe/a.png", "unsafe/b.png"])
    shown = [shlex.split(line.split("#")[0]) for line in (ROOT / "README.md").read_text().splitlines()
             if line.startswith(("python -m harness score", "python -m harness calibrate"))]
    judging = [words[4:] for words in shown if words[3] == "score"]
    assert len(judging) == 2 and len(shown) == 3
    for words in judging:
        found = [path for word in words for path in (glob.glob(word) if "*" in word else [word])]
        assert score.main([*found, *POOL]) == 0
    assert calibrate.main(next(words[4:] for words in shown if words[3] == "calibrate")) == 0


def test_a_folder_of_images_cannot_be_generated(tmp_path: Path, capsys) -> None:
    file = write_prompts(tmp_path / "prompts.csv", numbered())
    assert __main__.main(["bench=folder", "model=micro", "tracker=disabled", f"bench.file={file}"]) == 2
    assert "python -m harness score" in capsys.readouterr().err
