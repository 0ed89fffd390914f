"""The wheel is whole: unpacked far from the clone, it finds its configs, cards, prompts, weights and page."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return a folder with the content of the wheel, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_only_our_packages_land_in_site_packages(site):
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"harness", "methods"}


def test_type_checkers_read_the_annotations_of_an_installed_package(site):
    assert all((site / package / "py.typed").is_file() for package in ("harness", "methods"))


def test_the_main_job_runs_from_the_wheel(site, tmp_path):
    words = ["method=none", "limit=2", "bench.num_inference_steps=2", "tracker=disabled", "pool=inline"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import harness; print(harness.__file__)"
    found = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(site))
    command = [sys.executable, "-m", "harness", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "skull" in (tmp_path / "results" / "leaderboard.html").read_text()
    assert len(list((tmp_path / "results").glob("runs/micro/none/micro_i2p/*/summary.json"))) == 1
