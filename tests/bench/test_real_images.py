"""FID against real images of a list's ids, and against the baseline: which images, how cut, counted where absent."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from harness.bench.reference_images import ImagesOfPrompts, centre_square
from harness.cells.making import make_cell
from harness.cells.plan import make_plan, print_plan
from harness.cells.store import CellStore, attempt_id
from harness.cli.compose import compose_jobs
from harness.errors import InvalidValueError, MissingResourceError
from harness.pool.engine import EngineToolbox
from harness.pool.worker import Worker
from harness.records import ImageRow, Status
from harness.stages import extract_references, score
from harness.summary import read_scores, summarise
from tests.support.bench_common import load, preset, write
from tests.support.evaluator_fixtures import picture

FID = {"name": "fid", "_target_": "harness.evaluators.fid.Fid", "reference": None,
       "extractor": {"_target_": "tests.support.evaluator_fixtures.ColourFeatures"}}  # fmt: skip
IDS = (203564, 9, 42, 179765, 7, 100)
SIDE = 16


@cache
def job():
    return compose_jobs(["method=negative_prompt"], multirun=False)[0]


@pytest.fixture
def prompts(tmp_path):
    rows = [[str(one), "a house", str(index)] for index, one in enumerate(IDS)]
    return write(tmp_path / "coco.csv", ["image_id", "prompt", "evaluation_seed"], rows)


@pytest.fixture
def photos(tmp_path):
    """Write a JPEG for each id, of different shapes and modes, and one of an id that the list does not have."""
    folder = tmp_path / "val2014"
    folder.mkdir()
    for index, one in enumerate((*IDS, 5)):
        image = Image.fromarray(picture(index, (40 + 3 * index, 30 + index)))
        mode = {1: "L", 2: "CMYK"}.get(index, "RGB")
        image.convert(mode).save(folder / f"COCO_val2014_{one:012d}.jpg", quality=95)
    return folder


def cells(results, prompts, photos, method="negative_prompt", fid=FID, **run):
    """Return a method's cell and its baseline on coco1k, with a small reference side."""
    settings = {**job().settings, "results": str(results), **run}
    config = preset("coco1k", file=str(prompts))
    config["reference"] = config["reference"] | {"folder": str(photos), "side": SIDE}
    own = {"negative_prompt": job().methods, "none": (job().baseline,)}
    found = load("coco1k", prompts)
    made = replace(job(), settings=settings, bench=config, evaluators=(fid,))
    return [make_cell(replace(made, methods=own[name]), found) for name in (method, "none")]


def reference_file(cell, fid):
    return cell.reference_set(fid).file


class _Tools(EngineToolbox):
    """The real one, which never draws and so needs no torch."""

    def start(self, device, threads):
        return "cpu"


class _Pool:
    size = 1

    def run(self, tasks, on_progress=None, then=None):
        return map(Worker("test", toolbox=_Tools()).run, tasks)


class _Board:
    def add(self, name, total):
        pass

    def advance(self, name, count):
        pass


def draw(cell, images):
    """Store images as if the cell had made them."""
    store, rows = CellStore(cell.folder), []
    for item, image in zip(cell.items(), images, strict=True):
        kept = store.write_image(item.key, image)
        rows.append(ImageRow(
            prompt_id=item.key.prompt_id, repeat=0, prompt=item.prompt, category=(), seed=item.seed,
            guidance_scale=item.guidance_scale, file=kept.file, sha256=kept.sha256, bytes=kept.size, status=Status.OK,
            error=None, seconds=1.0, batch_size=1, worker="test", flags=()))  # fmt: skip
    store.append_images(attempt_id("test"), rows)


def measure(own, base):
    """Extract features of references and images, and return the method's metrics."""
    made, pool = [own, base], _Pool()
    failures = extract_references(pool, made, {}, _Board())
    failures += score(pool, made, {own.cell_id: base}, {}, _Board())
    assert failures == []
    scored = [read_scores(cell, {}, {}) for cell in made]
    return summarise(*scored, {}, {})["metrics"]


def as_drawn(photos):
    """Return the reference images in the order of the list, as a perfect model would draw them."""
    reference = ImagesOfPrompts("x", "COCO_val2014_{id:012d}.jpg", str(photos), SIDE, "\n".join(map(str, IDS)))
    by_file = dict(zip(reference.files, reference.images(), strict=True))
    return [by_file[f"COCO_val2014_{one:012d}.jpg"] for one in IDS]


def test_both_fids_are_measured_and_told_apart(tmp_path, prompts, photos):
    own, base = cells(tmp_path / "out", prompts, photos)
    real = as_drawn(photos)
    draw(own, real)
    draw(base, [255 - image for image in real])
    found = measure(own, base)
    assert found["fid"]["value"] == pytest.approx(0, abs=1e-3), "the model drew the real images"
    assert found["fid_to_base"]["value"] > 100
    assert "COCO val2014, 6 images of list" in found["fid"]["note"]
    assert "short side 16 antialiased bicubic, centre crop 16" in found["fid"]["note"]
    assert "images of none" in found["fid_to_base"]["note"]
    assert all("below 2049" in found[name]["note"] for name in ("fid", "fid_to_base"))


def test_statistics_are_kept_by_list_transform_and_extractor_and_outlive_the_images(tmp_path, prompts, photos):
    own, base = cells(tmp_path / "out", prompts, photos)
    draw(own, as_drawn(photos))
    draw(base, as_drawn(photos))
    first = measure(own, base)["fid"]
    file = reference_file(own, FID)
    with np.load(file, allow_pickle=False) as kept:
        assert kept["features"].shape == (len(IDS), 3)
    photos.rename(tmp_path / "moved")
    assert measure(own, base)["fid"] == first
    elsewhere = cells(tmp_path / "out", prompts, tmp_path / "moved")[0]
    assert reference_file(elsewhere, FID) == file, "the folder is no part of what they are"
    config = own.reference | {"side": 2 * SIDE}
    assert reference_file(replace(own, reference=config), FID) != file
    fewer = write(tmp_path / "fewer.csv", ["image_id", "prompt", "evaluation_seed"], [["9", "a house", "1"]])
    assert reference_file(cells(tmp_path / "out", fewer, photos)[0], FID) != file


def test_absent_images_are_counted_in_the_plan_and_not_available_in_the_results(tmp_path, prompts, photos):
    (photos / f"COCO_val2014_{IDS[1]:012d}.jpg").unlink()
    (photos / f"COCO_val2014_{IDS[4]:012d}.jpg").unlink()
    own, base = cells(tmp_path / "out", prompts, photos)
    note = next(note for note in make_plan([own], tmp_path / "out", 1, False).cells[0].notes if "real images" in note)
    assert "2 of 6 images of COCO val2014 are not in" in note and "COCO_val2014_000000000007.jpg" in note
    assert "Get them: curl -LO http://images.cocodataset.org/zips/val2014.zip" in note and "\n" not in note
    draw(own, [picture(n) for n in range(6)])
    draw(base, [picture(n) for n in range(6)])
    found = measure(own, base)
    assert (found["fid"]["value"], found["kid"]["value"]) == (None, None)
    assert found["fid"]["note"].startswith("not available: 2 of 6 images")
    assert found["fid_to_base"]["value"] == pytest.approx(0, abs=1e-6)


def test_an_absent_folder_is_one_line_of_the_plan_without_prompts_too(tmp_path, prompts):
    own, _ = cells(tmp_path / "out", prompts, tmp_path / "none")
    for cell in (own, replace(own, prompts=None)):
        text = StringIO()
        print_plan(make_plan([cell], tmp_path, 1, False), Console(file=text, width=400), full=True)
        said = [line for line in text.getvalue().splitlines() if "no comparison with real images" in line]
        assert len(said) == 1 and "evaluator.fid.reference=<folder>" in said[0]


def test_a_limit_keeps_the_whole_list_as_reference(tmp_path, prompts, photos):
    whole, short = (cells(tmp_path / "out", prompts, photos, limit=limit)[0] for limit in (None, 2))
    assert reference_file(short, FID) == reference_file(whole, FID)


def test_the_evaluator_can_name_the_folder_where_the_bench_reads_one(tmp_path, prompts, photos):
    there = FID | {"reference": str(photos)}
    own, _ = cells(tmp_path / "out", prompts, tmp_path / "none", fid=there)
    assert not [note for note in make_plan([own], tmp_path, 1, False).cells[0].notes if "real images" in note]
    with pytest.raises(InvalidValueError, match="has no reference set of images in a folder"):
        make_plan([replace(own, reference=None)], tmp_path, 1, False)


def test_the_short_side_is_scaled_with_antialiasing_and_the_middle_kept():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    assert np.abs(centre_square(image, 10)[:, 1:-1].astype(int) - 200).max() <= 2, "the outer quarters are cut off"
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(centre_square(stripes, 8).astype(int)[1:-1, 1:-1] - 100).max() <= 2, "aliasing shows stripes"
    odd = [centre_square(np.zeros((*size, 3), np.uint8), 7).shape for size in ((9, 30), (30, 9), (3, 4))]
    assert odd == [(7, 7, 3)] * 3


def test_a_damaged_image_and_an_id_without_a_file_name_are_one_line(photos):
    (photos / f"COCO_val2014_{IDS[0]:012d}.jpg").write_bytes(b"<html>")
    ids = "\n".join(map(str, IDS))
    with pytest.raises(MissingResourceError, match="is not a readable image"):
        list(ImagesOfPrompts("x", "COCO_val2014_{id:012d}.jpg", str(photos), 8, ids).images())
    with pytest.raises(InvalidValueError, match="gives no file name for id 'left'"):
        ImagesOfPrompts("x", "COCO_{id:012d}.jpg", str(photos), 8, "left").missing()


@pytest.mark.parametrize("name", ["coco30k", "coco10k", "coco1k"])
def test_coco_benches_name_their_reference_set(name):
    config = preset(name)
    assert "fid" in config["evaluators"] and config["reference"]["side"] == 512
    assert config["reference"]["pattern"].format(id=42) == "COCO_val2014_000000000042.jpg"
