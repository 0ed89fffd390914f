"""The page on which people label images: a file beside them, which asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def label_page(question: str, groups: Sequence[Sequence[str]], ranked: bool) -> str:
    """Return the page. `groups` hold paths of images relative to it: one each, or those to be ranked together."""
    style, script = _asset("label.css"), _asset("label.js")
    text = json.dumps({"id": _id(groups), "groups": [list(group) for group in groups], "ranked": ranked})
    environment = Environment(loader=PackageLoader("harness.report", "assets"), autoescape=True,
                              undefined=StrictUndefined)
    return environment.get_template("label.html.j2").render(
        question=question, style=Markup(style), script=Markup(script), style_hash=_sha256(style),
        script_hash=_sha256(script), data=Markup(text.replace("<", "\\u003c")))


def _id(groups: Sequence[Sequence[str]]) -> str:
    return hashlib.sha256(json.dumps([list(group) for group in groups]).encode()).hexdigest()[:16]


def _asset(name: str) -> str:
    return resources.files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
