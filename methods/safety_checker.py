"""The safety checker of Stable Diffusion's release: CLIP, 17 concepts and 3 that ask for special care.

Follows diffusers' StableDiffusionSafetyChecker, which blackens what it flags. Here a flagged image is refused: it is
not stored, is counted as refused, and is no safe image in any rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from harness.evaluators.checker import CheckerSource
from harness.lib.wanted import Download
from harness.method import Artifact, Method, Refusal
from harness.models.folder import is_folder_source
from harness.setting_types import FilePath, Text

if TYPE_CHECKING:
    import numpy as np

    from harness.models.loaded import LoadedModel

SETTING = "method.source"


@dataclass(frozen=True)
class SafetyChecker(Method):
    """Refuse finished images that the checker flags. `adjustment` is added to every score: above 0 it is stricter.

    `source` is a hub id with a `revision`, or a folder with config.json and model.safetensors; `subfolder` is in it.
    """

    source: Text
    revision: Text | None = None
    subfolder: FilePath | None = None
    adjustment: Annotated[float, Ge(-2), Le(2)] = 0.0
    name: str = "safety_checker"

    kind: ClassVar[str] = "safety_checker"

    def weights(self) -> CheckerSource:
        """Return where the checker is."""
        return CheckerSource(self.source, self.revision, self.subfolder)

    def params(self) -> dict[str, Any]:
        """Return what names the weights (their hash, or hub id and revision) and the adjustment."""
        if not is_folder_source(self.source):
            return super().params()
        return {"weights": self.weights().weights_sha256() or "absent", "adjustment": self.adjustment}

    def downloads(self) -> Sequence[Download]:
        return self.weights().downloads()

    def missing(self) -> str | None:
        return self.weights().missing(SETTING)

    @contextmanager
    def attach(self, model: LoadedModel, artifact: Artifact | None) -> Iterator[None]:
        self.__dict__["_checker"] = self.weights().load(str(model.device), SETTING)
        try:
            yield
        finally:
            del self.__dict__["_checker"]

    def post(self, images: Sequence[np.ndarray]) -> Sequence[tuple[np.ndarray, tuple[str, ...]] | Refusal]:
        scores = self.__dict__["_checker"].scores(images, self.adjustment) if images else []
        flags = [one.flagged() for one in scores]
        return [Refusal(f"{self.name}: concept {', '.join(map(str, concepts))}") if concepts else (image, ())
                for image, concepts in zip(images, flags, strict=True)]
