"""The pages' own files: what the server sends and a bundle holds, and the policy that they run under."""

from __future__ import annotations

from functools import cache
from importlib import resources

KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}  # fmt: skip
INDEX = "index.html"
# Scripts, styles, images and data from this address alone; nothing inline, no frame, no form.
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'")


@cache
def assets() -> dict[str, bytes]:
    """Return every file of the pages by its name."""
    folder = resources.files("harness.view").joinpath("assets")
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in KINDS}


def kind_of(name: str) -> str:
    """Return the media type of one of the pages' files."""
    return KINDS[name.rpartition(".")[2]]
