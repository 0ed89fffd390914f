"""What is read back from files is data: no stored config, artifact or card runs code or leaves its place."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.bench.card import find_card, read_card
from harness.cells.calibration import load_calibrations
from harness.cells.store import CellStore, EvaluatorKey
from harness.cells.stored_cell import stored_cell
from harness.cells.tables import UnreadableTable, decode_images, encode_images
from harness.cli import leaderboard, score
from harness.cli.export import method_class
from harness.errors import HarnessError, IncompatibleError, InvalidValueError, StorageError
from harness.evaluator import Evaluator
from harness.lib.trusted_targets import stored_class, targets_of
from harness.models.folder import model_folder
from harness.records import ImageKey, ImageRow, Status
from harness.report.export import csv_text
from harness.report.grid import read_verdicts
from harness.report.runs import load_runs, run_from_summary
from harness.report.table import build_rows

EVIL = """from pathlib import Path
Path({mark!r}).write_text("run")
from harness.evaluator import Evaluator
class Evil(Evaluator):
    def __init__(self, name): self.name = name
    def identity(self): return {{}}
    def setup(self, device): pass
    def score(self, batch): return []
"""


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "results")
    return next((tmp_path / "results" / "runs" / "micro" / "none").glob("*/*"))


@pytest.fixture
def mark(tmp_path: Path, monkeypatch) -> Path:
    """Put a module on the path that leaves a mark when it is imported."""
    (tmp_path / "path").mkdir()
    mark = tmp_path / "mark"
    (tmp_path / "path" / "evil_module.py").write_text(EVIL.format(mark=str(mark)))
    (tmp_path / "path" / "evil_package").mkdir()
    (tmp_path / "path" / "evil_package" / "__init__.py").write_text(EVIL.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    yield mark
    for name in ("evil_module", "evil_package"):
        sys.modules.pop(name, None)


def poison(run: Path, change) -> None:
    config = CellStore(run).read_cell()
    change(config)
    CellStore(run).write_cell(config)


def set_evaluator(target: str, **more):
    return lambda config: config.update(evaluators=[{"name": "hazard_judge", "_target_": target, **more}])


POISONS = {
    "a function": set_evaluator("os.system", command="touch {mark}"),
    "an evaluator from elsewhere": set_evaluator("evil_module.Evil"),
    "a function of the harness": set_evaluator("harness.lib.atomic.write_atomic", path="{mark}", data="x"),
    "a class of the harness of another kind": set_evaluator("harness.cells.store.CellStore", folder="{mark}"),
    "a module reached through the harness": set_evaluator(
        "harness.lib.classes.importlib.import_module", name="evil_module"),
    "no path": set_evaluator("..os.system"),
    "an extractor": lambda c: c["evaluators"][1].update(extractor={"_target_": "evil_module.Evil", "name": "x"}),
    "a method": lambda c: c["methods"][0].update(_target_="evil_module.Evil"),
    "a method as evaluator": set_evaluator("methods.none.NoMethod"),
    "a loader": lambda c: c["model"].update(loader="evil_module.Evil"),
    "a reference": lambda c: c["bench"].update(reference={"_target_": "evil_module.Evil", "name": "x"}),
}


@pytest.mark.parametrize("name", POISONS)
def test_a_stored_config_runs_no_code_of_others(run: Path, mark: Path, name: str, capsys) -> None:
    poison(run, POISONS[name])
    (run / "cell.yaml").write_text((run / "cell.yaml").read_text().replace("{mark}", str(mark)))
    assert score.main([str(run), "evaluator=degenerate", "pool=inline", "leaderboard=false"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "data" in said
    assert leaderboard.main([str(run.parents[4])]) == 0
    assert not mark.exists() and "evil_module" not in sys.modules


def test_the_board_shows_stored_verdicts_and_builds_no_evaluator(run: Path, monkeypatch) -> None:
    poison(run, POISONS["a function"])
    monkeypatch.setattr("harness.lib.targets.build", lambda *a, **k: pytest.fail("an evaluator was built"))
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    shown = next(one for one in load_runs(run.parents[4]) if one.folder == run)
    with_file = read_verdicts(shown, CellStore(run))
    assert len(with_file) == 2 and all(set(found) == {"hazard_judge"} for found in with_file.values())
    (run / "verdicts.parquet").unlink()
    assert read_verdicts(shown, CellStore(run)) == with_file


def test_verdicts_on_other_images_or_of_another_judge_are_not_shown(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["evaluators"]["hazard_judge"]["fingerprint"] = "0" * 16
    CellStore(run).write_summary(summary)
    shown = next(one for one in load_runs(run.parents[4]) if one.folder == run)
    assert read_verdicts(shown, CellStore(run)) == {}


def test_a_plug_in_of_the_persons_config_folder_is_judged_again(run: Path, mark: Path, tmp_path, capsys) -> None:
    poison(run, lambda config: config["evaluators"].append({"name": "evil", "_target_": "evil_module.Evil"}))
    words = [str(run), "evaluator=degenerate", "pool=inline", "leaderboard=false"]
    assert score.main(words) == 2 and "evil_module.Evil" in capsys.readouterr().err
    (tmp_path / "conf" / "evaluator").mkdir(parents=True)
    (tmp_path / "conf" / "evaluator" / "evil.yaml").write_text("name: evil\n_target_: evil_module.Evil\n")
    assert targets_of([str(tmp_path / "conf")]) == {"evil_module.Evil"}
    score.main(["--config-dir", str(tmp_path / "conf"), *words])
    assert mark.exists() and "must not run code" not in capsys.readouterr().err


def test_an_artifact_names_methods_only(mark: Path) -> None:
    from harness.training.artifacts import StoredArtifact

    for path in ("evil_module.Evil", "harness.cells.store.CellStore", "os.system", "harness.evaluator.Evaluator"):
        with pytest.raises(IncompatibleError, match="must not run code"):
            method_class(StoredArtifact("key", {}, {"class": path}))
    assert method_class(StoredArtifact("key", {}, {"class": "methods.uce.UCE"})).kind == "uce"
    assert not mark.exists()


def test_a_class_of_ours_must_be_of_the_kind_that_is_wanted() -> None:
    assert stored_class("harness.micro.hazard_judge.HazardJudge", (Evaluator,), (), "x").__name__ == "HazardJudge"
    for path in ("methods.none.NoMethod", "harness.evaluators.scoring.read_image", "harness.no_module.X", "harness",
                 "5"):
        with pytest.raises(HarnessError):
            stored_class(path, (Evaluator,), (), "x")


def test_a_package_source_imports_nothing(mark: Path) -> None:
    assert model_folder({"source": "pkg://evil_package.inner/weights"}) is not None
    assert not mark.exists()


@pytest.mark.parametrize("key", ["cell_id", "name of a method", "name of a model", "name of a bench"])
def test_stored_names_are_names(run: Path, key: str, capsys) -> None:
    places = {"cell_id": lambda c: c.update(cell_id="../x"),
              "name of a method": lambda c: c["methods"][0].update(name="../x"),
              "name of a model": lambda c: c["model"].update(name="/x"),
              "name of a bench": lambda c: c["identity"]["bench"].update(name="a/b")}
    poison(run, places[key])
    with pytest.raises(HarnessError, match=r"its names are invalid|not a list of settings with names"):
        stored_cell(run, {}, None)


@pytest.mark.parametrize("file", ["/etc/passwd", "../../other/x.png", "", "a/../../b"])
def test_a_row_that_names_a_file_outside_of_its_cell_is_not_read(file: str) -> None:
    row = ImageRow("p", 0, "a", (), 1, 5.0, file, "0" * 64, 3, Status.OK, None, 0.1, 1, "w")
    with pytest.raises(UnreadableTable, match="outside"):
        decode_images(encode_images([row]))


def test_scores_folder_of_a_summary_stays_in_its_cell(run: Path) -> None:
    (run / "verdicts.parquet").unlink()
    summary = json.loads((run / "summary.json").read_text())
    key = EvaluatorKey(**dict(zip(("name", "fingerprint"), summary["evaluators"]["hazard_judge"]["scores"].values(),
                                  strict=True)))
    shutil.copytree(run / "scores" / key.name, run.parent / "elsewhere")
    summary["evaluators"]["hazard_judge"]["scores"]["folder"] = "../../elsewhere"
    CellStore(run).write_summary(summary)
    shown = next(one for one in load_runs(run.parents[4]) if one.folder == run)
    assert read_verdicts(shown, CellStore(run)) == {}


def test_a_calibration_names_an_evaluator(finished: Path, tmp_path: Path) -> None:
    file = next(finished.glob("calibrations/*/*.yaml"))
    content = yaml.safe_load(file.read_text()) | {"evaluator": "../x"}
    (tmp_path / "calibrations" / "x").mkdir(parents=True)
    (tmp_path / "calibrations" / "x" / file.name).write_text(yaml.safe_dump(content))
    found = load_calibrations(tmp_path)
    assert not found.found and "a name of letters" in found.problems[0]


CARDS = {
    "empty": ("", "nothing"),
    "list": ("[1, 2]", "list"),
    "scalar": ("5", "int"),
    "no name": ("rows: 3", "name"),
    "broken": ("a: [1, 2\nb: {", "cannot be read"),
    "deep": ("a: " + "[" * 3000 + "]" * 3000, "nested deeper"),
    "aliases": ("\n".join(["a: &a [x, x, x, x, x, x, x, x, x, x]", *(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))]), "aliases"),
    "itself": ("a: &a [*a]", "contains itself"),
    "an object": ("name: !!python/object/apply:os.system ['true']", "cannot be read"),
    "of itself": ("name: x\nof: ../x", "of"),
    "of nothing": ("name: x\nof: nothing_of_the_kind", "unknown card"),
    "file above": ("name: x\nfile: ../../secret.csv", "next to the card"),
    "file elsewhere": ("name: x\nfile: /etc/passwd", "next to the card"),
    "hub keys": ("name: x\nhub: {repo: a/b, token: 5}", "unknown setting of hub 'token'"),
    "hub list": ("name: x\nhub: [1]", r"hub=.*expected settings \(repo, file"),
    "hub file": ("name: x\nhub: {repo: a/b, file: ../../x}", "hub.file"),
    "download": ("name: x\ndownload: {file: ../x, url: https://example.org}", "download.file"),
    "address": ("name: x\ndownload: {file: x, url: 'file:///etc/passwd'}", "download.url"),
    "rows": ("name: x\nrows: many", "count"),
    "digits": ("name: x\nrows: " + "9" * 6000, "digits"),
    "columns": ("name: x\ncolumns: 5", "columns"),
    "variants": ("name: x\nvariants: [1]", "mapping"),
    "variant": ("name: x\nvariants: {a: 5}\nvariant: a", "mapping"),
    "positions": ("name: x\nselect: {positions: 5}", "positions"),
    "generate": ("name: x\ngenerate: {templates: [a], axis: 5}", "axis"),
    "path as name": ("name: ../x", "name"),
    "not utf-8": (b"\xff\xfe\x00", "cannot be read"),
    "null": (b"name: x\x00", "cannot be read"),
    "date": ("name: 2001-99-99", "cannot be read"),
    "key": ("name: x\n? [1, 2]\n: 3", "cannot be read"),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_is_one_line(tmp_path: Path, name: str) -> None:
    text, said = CARDS[name]
    (tmp_path / "card.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(HarnessError, match=said) as error:
        read_card(tmp_path / "card.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


def test_a_chain_of_cards_that_ends_in_itself_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("harness.bench.card.datasets_dir", lambda: tmp_path)
    for name, of in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nof: {of}\n")
    with pytest.raises(InvalidValueError, match="refers to itself: b > a"):
        find_card("a")


def test_every_shipped_card_is_read() -> None:
    from harness.lib.paths import datasets_dir

    names = [file.stem for file in datasets_dir().glob("*.yaml")]
    assert len(names) > 5 and all(find_card(name).name for name in names)


# Links: a folder from elsewhere may hold some


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """Return a run folder of two pictures with a table of rows and what a run writes beside them."""
    store = CellStore(tmp_path / "runs" / "m" / "none" / "b" / "cell")
    rows = []
    for index in range(2):
        made = store.write_image(ImageKey(f"p{index}", 0), np.full((8, 8, 3), index, np.uint8))
        rows.append(ImageRow(f"p{index}", 0, "a", (), 1, 5.0, made.file, made.sha256, made.size, Status.OK, None, 0.1,
                             1, "w"))
    store.append_images("one", rows)
    store.write_summary({"schema": 1})
    store.write_provenance({"who": "somebody"})
    store.write_cell({"name": "x"})
    return store.folder


@pytest.mark.parametrize("part", ["scores", "scores/degenerate", "rows", "images"])
def test_nothing_is_written_where_a_link_leads_out_of_a_run_folder(cell: Path, tmp_path: Path, part: str) -> None:
    outside = tmp_path / "outside"
    if (cell / part).is_dir():
        shutil.move(cell / part, outside)
    outside.mkdir(exist_ok=True)
    before = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    (cell / part).parent.mkdir(exist_ok=True)
    (cell / part).symlink_to(outside)
    store = CellStore(cell)
    key = EvaluatorKey("degenerate", "0" * 16)
    writes = {
        "scores": lambda: store.append_scores(key, "a", []),
        "scores/degenerate": lambda: store.append_scores(key, "a", []),
        "rows": lambda: store.append_images("a", []),
        "images": lambda: store.write_image(ImageKey("p", 0), np.zeros((8, 8, 3), np.uint8)),
    }  # fmt: skip
    with pytest.raises(StorageError, match="is a link out of"):
        writes[part]()
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == before


def test_what_is_read_through_a_link_out_of_a_run_folder_does_not_count(cell: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(cell, outside)
    whole = CellStore(cell).images()
    picture = next(cell.glob("images/*/*.png"))
    picture.unlink()
    picture.symlink_to(outside / picture.relative_to(cell))
    store = CellStore(cell)
    assert len(store.done()) == len(whole) - 1
    assert any("link" in reason for reason in store.problems.values())
    for name in ("summary.json", "cell.yaml", "provenance.json"):
        (cell / name).unlink()
        (cell / name).symlink_to(outside / name)
    assert CellStore(cell).read_summary() is CellStore(cell).read_cell() is CellStore(cell).read_provenance() is None
    (table,) = cell.glob("rows/*.parquet")
    table.unlink()
    table.symlink_to(outside / table.relative_to(cell))
    assert CellStore(cell).images() == {}


def test_links_that_stay_in_the_run_folder_and_links_to_a_run_folder_are_followed(cell: Path, tmp_path: Path) -> None:
    whole = len(CellStore(cell).done())
    picture = next(cell.glob("images/*/*.png"))
    picture.rename(cell / "moved.png")
    picture.symlink_to(cell / "moved.png")
    assert len(CellStore(cell).done()) == whole > 0
    (tmp_path / "shared").symlink_to(cell)  # somebody's own, above the run folder
    store = CellStore(tmp_path / "shared")
    assert len(store.done()) == whole and store.read_summary()
    store.append_images("again", [])


def test_judging_a_run_folder_with_a_link_out_of_it_is_one_line(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "outside").mkdir()
    (run / "scores" / "clip_zero_shot_micro").symlink_to(tmp_path / "outside")
    code = score.main([str(run), "evaluator=clip_zero_shot_micro", "pool=inline", "leaderboard=false"])
    told = capsys.readouterr()
    assert code in (1, 2) and "Traceback" not in told.err + told.out
    assert "link out of" in told.err + told.out and not list((tmp_path / "outside").iterdir())


FORMULAS = ("=HYPERLINK(\"http://x\")", "+1+1", "-2+3", "@SUM(A1)", "\tx", " =1+1", "\uff1d1+1")


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_of_a_summary_is_a_formula_in_the_csv_file(text: str) -> None:
    metric = {"value": -0.25, "ci_low": -0.5, "ci_high": 0.5, "n": 4, "n_unknown": 0, "higher_is_better": False,
              "note": text}  # fmt: skip
    summary = {"schema": 1, "cell": {"id": "c", "model": text, "method": text, "bench": text}, "status": "incomplete",
               "incomplete": [text], "metrics": {"clip_score": metric}}  # fmt: skip
    (record,) = csv.DictReader(io.StringIO(csv_text(build_rows([run_from_summary(summary)], {})), newline=""))
    said = [value for value in record.values() if text.strip() in value]
    assert len(said) >= 4 and all(value.startswith("'") for value in said)
    assert record["clip_score"] == "-0.25"  # a number is one, negative or not
