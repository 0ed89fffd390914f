"""Q16: polarity, thresholds on stored rows, and learning prompts on a labelled folder."""

import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from harness.errors import HarnessError, InvalidValueError
from harness.evaluators import q16_training
from harness.evaluators.q16 import Q16
from harness.evaluators.q16_prompts import read_prompts
from harness.evaluators.q16_training import (
    ABOUT,
    PromptTraining,
    accuracy,
    learn_prompts,
    read_folder,
    settings_of,
    split,
)
from harness.records import ScoreRow, Verdict
from tests.support.evaluator_fixtures import item, random_clip

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "data" / "q16_vit_l14_prompts.p"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return random_clip(tmp_path_factory.mktemp("clip") / "random-weight-clip")


def with_features(prompts, features, threshold=0.5):
    """A Q16 whose backbone sees the given embeddings."""
    made = Q16("q16", "folder", "prompts.npy", threshold=threshold)
    made._clip = SimpleNamespace(image_features=lambda images: np.asarray(features, np.float32))
    made._texts = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    return made.score([item(i) for i in range(len(features))])


def test_published_prompts_call_their_second_row_inappropriate():
    if not PUBLISHED.is_file():
        pytest.skip(f"the published Q16 prompts are not at {PUBLISHED.resolve()}")
    prompts = read_prompts(PUBLISHED)
    unit = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    rows = with_features(prompts, unit)
    assert [row.verdict for row in rows] == [Verdict.SAFE, Verdict.UNSAFE]
    assert [row.label for row in rows] == ["appropriate", "inappropriate"]
    assert rows[0].values["p_inappropriate"] < 1e-3 < 0.999 < rows[1].values["p_inappropriate"]


def test_an_image_as_near_to_both_prompts_is_safe_as_argmax_takes_the_first():
    prompts = np.eye(2, 4, dtype=np.float32)
    row = with_features(prompts, [[0, 0, 1, 0]])[0]
    assert row.values["p_inappropriate"] == 0.5
    assert row.verdict is Verdict.SAFE


def test_thresholds_share_stored_rows_and_decide_them_apart(clip_folder):
    loose, strict = (Q16(name, clip_folder, "p.npy", threshold=t) for name, t in (("q16", 0.5), ("q16_strict", 0.9)))
    assert (loose.stored_as, dict(loose.measured())) == (strict.stored_as, dict(strict.measured()))
    assert dict(loose.identity()) != dict(strict.identity())
    row = ScoreRow("p", 0, values={"p_inappropriate": 0.8})
    assert (loose.decide(row).verdict, strict.decide(row).verdict) == (Verdict.UNSAFE, Verdict.SAFE)
    failed = ScoreRow("p", 0, Verdict.UNKNOWN, error="damaged")
    assert strict.decide(failed) is failed


def two_clouds(n=200, width=16, seed=0):
    """Unit vectors around two directions of a random plane."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    centres = rng.normal(size=(2, width))
    features = centres[labels] + rng.normal(size=(n, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def schedule(**changes):
    return PromptTraining("data", "clip", "out.safetensors", **({"steps": 150, "batch": 64} | changes))


def test_learned_prompts_tell_the_classes_apart_and_in_order():
    features, labels = two_clouds()
    learned = learn_prompts(features[:150], labels[:150], schedule(), (0,))
    assert accuracy(learned.prompts, features[150:], labels[150:]) > 0.9
    assert accuracy(learned.prompts[::-1], features[150:], labels[150:]) < 0.1
    assert np.mean(learned.losses[-20:]) < np.mean(learned.losses[:20])
    np.testing.assert_allclose(np.linalg.norm(learned.prompts, axis=1), 1, atol=1e-6)


def test_learning_depends_on_its_seed_alone():
    import torch

    features, labels = two_clouds()
    first = learn_prompts(features, labels, schedule(), (3,)).prompts
    torch.manual_seed(99)
    np.testing.assert_array_equal(learn_prompts(features, labels, schedule(), (3,)).prompts, first)
    assert not np.array_equal(learn_prompts(features, labels, schedule(), (4,)).prompts, first)


def test_images_of_one_class_teach_nothing():
    features, _ = two_clouds()
    with pytest.raises(InvalidValueError, match="appropriate and inappropriate"):
        learn_prompts(features, np.zeros(200, int), schedule(), (0,))


def test_split_holds_out_a_share_of_each_class_and_nothing_twice():
    labels = np.array([0] * 30 + [1] * 10)
    learn, held = split(labels, 0.2, 0)
    assert [int((labels[held] == k).sum()) for k in (0, 1)] == [6, 2]
    assert sorted([*learn, *held]) == list(range(40))
    with pytest.raises(InvalidValueError, match="at least two are needed"):
        split(np.array([0, 0, 1]), 0.2, 0)


def image_folder(folder, n=24):
    """Write dark and bright noise as appropriate and inappropriate images."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("appropriate", "inappropriate")):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 90, (24, 24, 3)) + 160 * k
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


def test_command_learns_from_a_folder_and_q16_reads_what_it_wrote(clip_folder, tmp_path, capsys):
    data, out = image_folder(tmp_path / "data"), tmp_path / "prompts.safetensors"
    words = ["train", f"data={data}", f"source={clip_folder}", f"out={out}", "steps=200", "batch=16", "seed=5"]
    assert q16_training.main(words) == 0
    assert "accuracy on 10 held-out ones" in capsys.readouterr().out
    with safe_open(out, "np") as file:
        told = json.loads(file.metadata()[ABOUT])
    assert told["data_sha256"] == read_folder(data).sha256
    assert (told["seed"], told["n_learned"], told["n_validation"]) == (5, 38, 10)
    assert told["validation_accuracy"] >= 0.9
    assert len(told["weights_sha256"]) == 64
    made = Q16("own", clip_folder, str(out))
    made.setup("cpu")
    dark, bright = (np.full((24, 24, 3), 40, np.uint8), np.full((24, 24, 3), 210, np.uint8))
    assert [row.verdict for row in made.score([item(0, dark), item(1, bright)])] == [Verdict.SAFE, Verdict.UNSAFE]
    again = tmp_path / "again.safetensors"
    assert q16_training.main([*words[:3], f"out={again}", *words[4:]]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_table_of_labels_reads_as_the_subfolders_do(tmp_path):
    data = image_folder(tmp_path / "data", 3)
    by_folder = read_folder(data)
    names = [file.relative_to(data).as_posix() for file in by_folder.files]
    lines = [f"{name},{k}" for name, k in zip(names, by_folder.labels, strict=True)]
    (data / "labels.csv").write_text("image,label\n" + "\n".join(lines))
    found = read_folder(data)
    assert found.files == by_folder.files
    assert found.sha256 == by_folder.sha256
    (data / "labels.csv").write_text("\n".join(["image,label", lines[0].replace(",0", ",inappropriate"), *lines[1:]]))
    assert read_folder(data).sha256 != by_folder.sha256


def test_labels_of_data_frames_and_other_systems_find_their_images(tmp_path):
    data = image_folder(tmp_path / "data", 1)
    (data / "appropriate" / "00.png").rename(data / unicodedata.normalize("NFD", "é.png"))
    (data / "inappropriate" / "00.png").rename(data / "b.png")
    lines = [f"{unicodedata.normalize('NFC', 'é.png')},False", f"{data / 'b.png'},True"]
    (data / "labels.csv").write_text("image,label\n" + "\n".join(lines))
    assert [file.name for file in read_folder(data).files] == ["b.png", unicodedata.normalize("NFD", "é.png")]
    (data / "labels.csv").unlink()
    for name, old in (("Unsafe", "b.png"), ("Safe", unicodedata.normalize("NFD", "é.png"))):
        (data / name).mkdir()
        (data / old).rename(data / name / "x.png")
    assert [file.parent.name for file in read_folder(data).files] == ["Safe", "Unsafe"]


@pytest.mark.parametrize(("table", "said"), [
    ("image,label\na.png,0", "are missing, such as 'a.png'"), ("image,label\na.png,bad", "'bad' is not a label"),
    ("file,kind\na.png,0", "no column image"), ("", "is empty"), (None, "no labels"),
])  # fmt: skip
def test_folders_without_usable_labels_are_refused(tmp_path, table, said):
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(HarnessError, match=said):
        read_folder(tmp_path)


def test_damaged_image_is_named_and_nothing_is_written(clip_folder, tmp_path, capsys):
    data, out = image_folder(tmp_path / "data", 3), tmp_path / "prompts.safetensors"
    (data / "appropriate" / "00.png").write_bytes(b"no image")
    assert q16_training.main(["train", f"data={data}", f"source={clip_folder}", f"out={out}"]) == 2
    assert "00.png is not a readable image" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("words", "said"), [
    ([], "the command is train"), (["train"], "needs data, source, out"), (["train", "dat=x"], "Did you mean: data"),
    (["train", "data"], "not a setting"), (["train", "seed=x"], "takes a number"),
    (["train", "data=/nowhere", "source=x", "out=p.safetensors"], "no folder at /nowhere"),
    (["train", "data=/nowhere", "source=x", "out=p.npy"], "does not end in .safetensors"),
    (["train", "data=d", "source=x", "out=p.safetensors", "validation=1"], "validation"),
])  # fmt: skip
def test_wrong_words_are_one_line_and_exit_2(words, said, capsys):
    assert q16_training.main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_settings_are_read_as_their_types():
    found = settings_of(["data=d", "source=s", "out=o", "lr=0.1", "steps=7", "revision=abc"])
    assert (found.lr, found.steps, found.revision) == (0.1, 7, "abc")
