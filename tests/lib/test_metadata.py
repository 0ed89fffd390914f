"""What the package says of itself: one version, one licence, the Pythons that it is tested on."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from harness.lib.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_names_this_version_and_licence():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(cited)
    assert (cited["version"], cited["license"], cited["title"]) == (__version__, PROJECT["license"], PROJECT["name"])


def test_classifiers_are_known_and_name_every_python_from_the_first_one_on():
    from trove_classifiers import classifiers

    assert [one for one in PROJECT["classifiers"] if one not in classifiers] == []
    versions = [one.rpartition(" :: ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert versions == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={versions[0]}"


def test_addresses_of_the_project_are_addresses():
    assert all(url.startswith("https://") for url in PROJECT.get("urls", {}).values())
