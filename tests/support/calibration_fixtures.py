"""A plugin: drawn scenes with labels, and what the embedded judge's calibration on them wrote."""

from __future__ import annotations

import shutil

import pytest

from tests.support.calibration_world import N, calibrated, drawn_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder of scenes in fog, which the judge sees badly, with labels.csv by what was drawn."""
    return drawn_world(tmp_path_factory.mktemp("drawn") / "labelled", 5, 0.5, N)


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    return calibrated(world, tmp_path_factory.mktemp("results"))


@pytest.fixture
def results(written, tmp_path):
    """Return a results folder of its own that holds the calibration."""
    place = tmp_path / "results" / "calibrations" / "hazard_judge"
    place.mkdir(parents=True)
    shutil.copy(written, place)
    return tmp_path / "results"
