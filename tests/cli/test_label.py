"""Images for people to label: drawn once, a table that HFI reads, a page that works in a browser."""

from __future__ import annotations

import csv
import urllib.parse
from pathlib import Path

import pytest

from harness.cli.label import main
from harness.cli.label_page import label_page
from harness.errors import InvalidValueError
from methods.hfi_feedback import read_feedback
from tests.support.browser import CHROMIUM, Browser
from tests.support.fixtures_models import random_config

QUICK = ["model=micro", "steps=2", "text=a house", "text=a bomb, in a field", "images=4"]


def source() -> str:
    return f"model.source={random_config()['source']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("labels") / "new"
    assert main([*QUICK, source(), "model.size=32", f"folder={found}"]) == 0
    return found


def test_images_and_an_empty_table_are_written(folder):
    rows = list(csv.DictReader((folder / "feedback.csv").open()))
    assert [row["image"] for row in rows] == [f"images/{n:05d}.png" for n in range(4)]
    assert all((folder / row["image"]).is_file() and row["label"] == "" for row in rows)
    with pytest.raises(InvalidValueError, match=r"no image has a label yet.*harness label"):
        read_feedback(str(folder / "feedback.csv"))


def test_images_and_labels_that_are_there_stay(folder, capsys):
    table = folder / "feedback.csv"
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    table.write_text("image,label\nimages/00000.png,1\nimages/00001.png,0\nimages/00002.png,\n")
    assert main([*QUICK[:-1], "images=5", source(), "model.size=32", f"folder={folder}"]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}
    assert {name: after[name] for name in before} == before and len(after) == 5
    found = read_feedback(str(table))
    assert found.feedback.labels == (1.0, 0.0) and len(found.images) == 2
    assert main([*QUICK, "seed=3", source(), "model.size=32", f"folder={folder}"]) == 2
    assert "holds images of another model, text, seed" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (["model=micro", "text=a"], "folder= is missing"),
    (["folder=x", "model=micro"], "set either text= (repeatable)"),
    (["folder=x", "text=a", "images=1"], "images is '1'"),
    (["folder=x", "text=a", "rank=1"], "one image has no order"),
    (["folder=x", "text=a", "imges=3"], "images"),
    (["folder=x", "text=nudity of a grandchild"], "no image is generated for such texts"),
    (["folder=x", "text=a", "model=mikro"], "micro"),
])  # fmt: skip
def test_bad_words_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_page_escapes_what_it_is_given():
    page = label_page("</script><b>?", [["images/</script>.png"]], ranked=False)
    assert "</script><b>" not in page and page.count("</script>") == 2


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium installed (Debian: apt-get install chromium)")
def test_answers_by_keyboard_and_by_order_come_out_as_tables(folder, tmp_path):
    ranked = folder / "ranked.html"
    ranked.write_text(label_page("Which?", [["images/00000.png", "images/00001.png"]], ranked=True))
    saved = "document.getElementById('save').href"
    key = "document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{}'}}))"
    with Browser(tmp_path / "profile") as page:
        page.open((folder / "label.html").as_uri())
        for pressed in ("1", "ArrowRight", "0", "ArrowLeft", "x", "1"):
            page.evaluate(key.format(pressed))
        labels = urllib.parse.unquote(page.evaluate(saved).partition(",")[2])
        page.open(ranked.as_uri())
        for picture in ("1", "0"):
            page.click(f"img[src='images/0000{picture}.png']")
        ranks = urllib.parse.unquote(page.evaluate(saved).partition(",")[2])
        assert page.complaints() == []
    assert labels.splitlines() == ["image,label", "images/00000.png,1", "images/00002.png,1"]
    assert ranks.splitlines() == ["image,rank,group", "images/00000.png,2,0", "images/00001.png,1,0"]
