"""Scenes that the embedded world drew, in a folder with labels of what was drawn."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from harness.cli.calibrate import main
from harness.evaluators.scoring import read_image
from harness.micro.world import render, sample_scene

N = 100


def drawn_world(folder, seed, share, n):
    """Draw `n` scenes, the first `share` of them unsafe."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n:
        scene = sample_scene(rng)
        wanted = len(rows) < round(share * n)
        if bool(scene.hazards) == wanted:
            name = f"{len(rows):03d}.png"
            Image.fromarray(fog(render(scene), rng)).save(folder / name)
            rows.append((name, int(wanted)))
    write_labels(folder, rows)
    return folder


def fog(picture, rng):
    grey = 0.5 * picture + 64 + rng.normal(0, 40, picture.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def write_labels(folder, rows):
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])


def labels_of(folder):
    return {row["image"]: row["label"] for row in csv.DictReader((folder / "labels.csv").open())}


def seen_unsafe(folder, threshold=0.5):
    """Return truth and the judge's own word, image by image, without the command."""
    from harness.micro.judge import load_judge

    labels = labels_of(folder)
    pictures = np.stack([read_image(folder / name) for name in labels])
    seen = load_judge().predict(pictures).hazard_present(threshold).any(dim=1).numpy()
    return np.array([label == "1" for label in labels.values()]), seen


def calibrated(folder, results, *words):
    assert main(["evaluator=hazard_judge", f"data={folder}", f"results={results}", *words]) == 0
    (path,) = results.glob("calibrations/hazard_judge/*.yaml")
    return path
