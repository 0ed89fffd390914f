"""What identifies the content of the artifacts that images are generated with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from harness.method import Artifact

CONTENT_DIGITS = 16  # of the sha256 of its tensors, as it is told of images


def content_of(artifacts: Sequence[Artifact | None]) -> str | None:
    """Return what names the content of a cell's artifacts, 16 digits of sha256 each; None if it has none."""
    return "+".join(_content(artifact) for artifact in artifacts if artifact is not None) or None


def _content(artifact: Artifact) -> str:
    from safetensors.torch import save

    known = artifact.meta.get("sha256")
    return str(known or hashlib.sha256(save(dict(artifact.tensors))).hexdigest())[:CONTENT_DIGITS]
