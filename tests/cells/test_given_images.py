"""Images of others: found by the names that scripts give them, one a prompt where it is one, nothing left unsaid."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cells.imported_images import find_images
from harness.errors import HarnessError
from harness.records import ImageKey
from tests.support.bench_common import load, preset, write

HEADER = ("case_number", "prompt", "evaluation_seed")
SEED = {"seed": "evaluation_seed"}


def found(tmp_path: Path, names: list[str], rows: list[list[str]], header=HEADER, **bench):
    folder = tmp_path / "images"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    columns = {"prompt_id": header[0], **bench.pop("columns", {})}
    config = preset("folder", file=str(write(tmp_path / "p.csv", list(header), rows)), columns=columns)
    config |= {"images": str(folder)} | bench
    return find_images(config, load("folder", Path(config["file"]), columns=columns))


def named(result) -> dict[tuple[str, int], str]:
    return {(key.prompt_id, key.repeat): path.name for key, path in result.files.items()}


ROWS = [["0", "a", "4242"], ["1", "b", "17"], ["2", "c", "99"]]


def test_case_and_seed_is_one_image_a_prompt(tmp_path):
    result = found(tmp_path, ["0_4242.png", "1_17.png", "2_99.png"], ROWS, columns=SEED)
    assert named(result) == {("0", 0): "0_4242.png", ("1", 0): "1_17.png", ("2", 0): "2_99.png"}
    assert result.notes == ("the number in the images' names is a seed: one image per prompt",)


def test_numbers_that_no_two_prompts_share_are_no_repeats_with_seeds_unknown(tmp_path):
    rows = [[str(n), "a"] for n in range(40)]
    names = [f"{n}_{1000 + 7 * n}.png" for n in range(40)]
    result = found(tmp_path, names, rows, ("case_number", "prompt"))
    assert {key.repeat for key in result.files} == {0} and len(result.files) == 40
    assert "is not a repeat, since prompts do not share it: one image per prompt" in result.notes[0]


def test_several_seeds_a_prompt_are_repeats_in_their_order(tmp_path):
    rows = [[str(n), "a"] for n in range(5)]
    names = [f"{n}_{n * 1000 + 13 * k}.png" for n in range(5) for k in range(3)]
    result = found(tmp_path, names, rows, ("case_number", "prompt"))
    assert {(key.prompt_id, key.repeat) for key in result.files} == {(str(n), k) for n in range(5) for k in range(3)}
    assert result.files[ImageKey("2", 1)].name == "2_2013.png" and "up to 3 images per prompt" in result.notes[0]


def test_repeats_stay_repeats_where_some_are_missing(tmp_path):
    names = [f"{n}_{k}.png" for n in range(3) for k in range(4) if (n, k) not in ((0, 0), (1, 3), (2, 2))]
    result = found(tmp_path, names, ROWS)
    assert set(named(result)) == {(str(n), k) for n in range(3) for k in range(4)} - {("0", 0), ("1", 3), ("2", 2)}
    assert result.notes == ()
    first = found(tmp_path / "one", [f"{n}_0.png" for n in range(3)], ROWS, repeats=2)
    assert set(named(first)) == {(str(n), 0) for n in range(3)}


def test_a_pattern_may_say_that_the_number_is_the_seed(tmp_path):
    names = ["0_5.png", "0_4242.png", "1_17.png", "2_98.png"]
    result = found(tmp_path, names, ROWS, pattern="{prompt_id}_{seed}", columns=SEED)
    assert named(result) == {("0", 0): "0_4242.png", ("0", 1): "0_5.png", ("1", 0): "1_17.png", ("2", 0): "2_98.png"}
    assert result.notes[1] == "1 prompt with images of another seed than the row's"


def test_class_folders_folders_of_prompts_and_names_without_number(tmp_path):
    header = ("case_number", "prompt", "class")
    rows = [["0", "a", "church"], ["1", "b", "gas pump"]]
    kind = {"columns": {"category": "class"}}
    result = found(tmp_path / "a", ["church/0_0.png", "gas_pump/1_0.png", "gas_pump/0_1.png"], rows, header, **kind)
    assert set(named(result)) == {("0", 0), ("1", 0)} and result.n_other == 1
    assert len(found(tmp_path / "b", ["0/0.png", "1/0.png"], rows, header, pattern="{prompt_id}/{repeat}").files) == 2
    assert len(found(tmp_path / "c", ["0.png", "1.png"], rows, header).files) == 2
    both = ["church/0_0.png", "tench/0_0.png"]
    with pytest.raises(HarnessError, match=r"several files for 1 image, such as church/0_0\.png and tench/0_0\.png"):
        found(tmp_path / "d", both, rows, header)
    ok = found(tmp_path / "e", both, rows, header, pattern="{category}/{prompt_id}_{repeat}", **kind)
    assert (len(ok.files), ok.n_other) == (1, 1)
    assert len(found(tmp_path / "f", ["0_seed7_x.png"], rows, header, pattern="{prompt_id}_{any}").files) == 1
    with pytest.raises(HarnessError, match=r"place in bench\.pattern 'prompt'"):
        found(tmp_path / "g", ["0.png"], rows, header, pattern="{prompt}_{prompt_id}")


def test_ids_are_found_by_any_spelling(tmp_path):
    accent = "café au lait"
    names = ["012_0.PNG", "12.0_0.txt", "a b_0.jpg", f"{unicodedata.normalize('NFD', accent)}_0.png", "日本_0.jfif",
             "中国_0.JPEG"]  # fmt: skip
    rows = [["12", "a"], ["a b", "b"], [unicodedata.normalize("NFC", accent), "c"], ["日本", "d"], ["中国", "e"]]
    result = found(tmp_path, names, rows, ("case_number", "prompt"))
    assert len(result.files) == 5 and {key.repeat for key in result.files} == {0}
    floats = found(tmp_path / "f", ["0_0.png", "1.0_0.png"], [["0.0", "a"], ["1.0", "b"], ["", "c"]],
                   ("case_number", "prompt"))  # fmt: skip
    assert set(named(floats)) == {("0", 0), ("1", 0)}


def test_images_of_kinds_that_are_not_read_and_links_that_lead_away_are_said(tmp_path):
    names = ["0_0.gif", "1_0.heic", "2_0.avif", ".trash/2_0.png", "._2_0.png"]
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"secret")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2_0.png").symlink_to(outside)
    result = found(tmp_path, names, ROWS)
    assert named(result) == {("0", 0): "0_0.gif"}
    assert result.notes[0].startswith("2 files have unsupported formats (1 .avif, 1 .heic)")
    assert result.notes[1].startswith("1 links out of")
    (tmp_path / "images" / "1_0.png").symlink_to("0_0.gif")
    assert set(named(found(tmp_path, [], ROWS))) == {("0", 0), ("1", 0)}, "a link within the folder is followed"


@pytest.mark.parametrize("text", ["../secret.png", "{tmp}/secret.png", "a/../../secret.png"])
def test_a_column_of_images_names_none_outside_the_folder(tmp_path, text):
    (tmp_path / "secret.png").write_bytes(b"secret")
    rows = [["0", "a", "x.png"], ["1", "b", text.format(tmp=tmp_path)]]
    result = found(tmp_path, ["x.png"], rows, ("case_number", "prompt", "file"), image_column="file")
    assert named(result) == {("0", 0): "x.png"}


def test_a_column_of_images_may_be_a_field_is_spelled_freely_and_must_be_there(tmp_path):
    rows = [["a é.png", "x"], ["./sub\\b.png", "y"]]
    names = [unicodedata.normalize("NFD", "a é.png"), "sub/b.png"]
    result = found(tmp_path, names, rows, ("file_name", "prompt"), image_column="File Name")
    assert len(result.files) == 2
    with pytest.raises(HarnessError, match=r"no column 'file_nam'.*Did you mean: file_name"):
        found(tmp_path, names, rows, ("file_name", "prompt"), image_column="file_nam")
    with pytest.raises(HarnessError, match="names 1 images more than once"):
        found(tmp_path / "t", ["x.png"], [["0", "a", "x.png"], ["1", "b", "x.png"]], ("id", "prompt", "file"),
              image_column="file")  # fmt: skip


def picture(path: Path, orientation: int | None, **how) -> Path:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, :40], pixels[20:, 40:], pixels[:10, 70:] = (250, 10, 10), (10, 250, 10), 255
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **how)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_nudenet_sees_a_picture_turned_as_its_own_package_does(tmp_path, suffix, orientation):
    from nudenet import nudenet as package

    from harness.evaluators.nudenet import NudeNet
    from harness.evaluators.nudenet_detector import NetworkInput
    from harness.evaluators.scoring import read_image

    how = {"lossless": True} if suffix == "webp" else {"quality": 98} if suffix == "jpg" else {}
    file = picture(tmp_path / f"x.{suffix}", orientation, **how)
    assert NudeNet.upright
    ours, theirs = NetworkInput(320)(read_image(file, upright=True)), package._read_image(str(file))[0]
    assert np.abs(ours - theirs).mean() < 0.01
    if orientation > 4:
        assert np.abs(NetworkInput(320)(read_image(file)) - theirs).mean() > 0.05


def test_pictures_in_motion_are_not_judged_by_their_first(tmp_path):
    from harness.evaluators.scoring import read_image

    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "one.gif")
    with pytest.raises(ValueError, match="2 frames: animated images are not supported"):
        read_image(tmp_path / "x.gif")
    assert read_image(tmp_path / "one.gif").shape == (8, 8, 3)


def test_a_pattern_may_have_the_suffix_of_the_files(tmp_path):
    result = found(tmp_path, ["x0.png", "x1.PNG"], ROWS, pattern="x{prompt_id}.png")
    assert named(result) == {("0", 0): "x0.png", ("1", 0): "x1.PNG"}
