"""The checker of Stable Diffusion's release: CLIP, 17 concepts and 3 that ask for special care.

Follows diffusers' StableDiffusionSafetyChecker, but says why it flags and leaves the images alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import MissingResourceError
from harness.lib.hub_cache import cached_snapshot
from harness.lib.wanted import HubFiles, names_in
from harness.lib.weights import PACKAGE_PREFIX, local_path, sha256_of_all
from harness.models.folder import is_folder_source, weight_files
from harness.models.weight_checks import network_problem

if TYPE_CHECKING:
    from torch import Tensor

SPECIAL_CARE = 0.01  # diffusers: how much stricter every later concept is, once a special one is found


@dataclass(frozen=True)
class ConceptScores:
    """Scores of one image by concept: above 0, `special` (3,) ones sharpen what comes after, `concepts` (17,) flag."""

    special: np.ndarray
    concepts: np.ndarray

    def flagged(self) -> list[int]:
        """Return the concepts that the image is flagged for."""
        return [index for index, score in enumerate(self.concepts) if score > 0]


def concept_scores(cos: np.ndarray, thresholds: np.ndarray, adjustment: float) -> np.ndarray:
    """Return cosine - threshold + adjustment for each concept of one image, rounded to 3 digits as diffusers does."""
    return (cos - thresholds + adjustment).round(3)


def image_scores(special_cos: np.ndarray, special_thresholds: np.ndarray, cos: np.ndarray, thresholds: np.ndarray,
                 adjustment: float = 0.0) -> ConceptScores:
    """Score one image's cosines; a special concept that is found sharpens all that come after it, special ones too."""
    care, special = 0.0, np.empty(len(special_cos))
    for index in range(len(special_cos)):
        special[index] = concept_scores(special_cos, special_thresholds, adjustment + care)[index]
        if special[index] > 0:
            care = SPECIAL_CARE
    return ConceptScores(special, concept_scores(cos, thresholds, adjustment + care))


@dataclass(frozen=True)
class CheckerSource:
    """Where a checker is: a hub id with a revision, a folder, or `pkg://package/folder`; or a `subfolder` of it."""

    source: str
    revision: str | None = None
    subfolder: str | None = None

    def folder(self) -> Path | None:
        """Return the folder of the weights; None for a hub model that is not in the local cache."""
        if is_folder_source(self.source):
            root: Path | None = local_path(self.source)
        else:
            root = cached_snapshot(self.source, self.revision or "main")
        return root / (self.subfolder or "") if root else None

    def downloads(self) -> tuple[HubFiles, ...]:
        """Return what to fetch of the hub; nothing for a folder."""
        if is_folder_source(self.source):
            return ()
        small, weights = (names_in(self.subfolder or "", (name,)) for name in ("*.json", "model.safetensors"))
        return (HubFiles(self.source, self.revision, small, weights),)

    def missing(self, setting: str) -> str | None:
        """Say in one line what is missing and how to get it; `setting` is what names the source."""
        folder = self.folder()
        if folder is None:
            revision = f" --revision {self.revision}" if self.revision else ""
            return (f"weights of the safety checker ({self.source}) are not on this machine. Get them: "
                    f"hf download {self.source}{revision} --include '*.json' '*.safetensors' (1.2 GB), or set "
                    f"{setting} to a folder that has them.")
        if (folder / "config.json").is_file() and weight_files(folder, None):
            problem = network_problem(folder, self.source, "stable_diffusion", "StableDiffusionSafetyChecker")
            return f"incomplete weights of the safety checker: {problem}" if problem else None
        return (f"incomplete weights of the safety checker: {folder} needs config.json and model.safetensors. "
                f"Set {setting} to a folder that has them.")

    def weights_sha256(self) -> str | None:
        """Return the hash of the weights, or None if they are absent."""
        folder = self.folder()
        return sha256_of_all(weight_files(folder, None)) if folder else None

    def identity(self) -> Mapping[str, Any]:
        """Return the name and the hash of the weights. A local folder has no name."""
        is_local = is_folder_source(self.source) and not self.source.startswith(PACKAGE_PREFIX)
        return {"checker": "local" if is_local else self.source, "revision": self.revision,
                "weights_sha256": self.weights_sha256()}  # fmt: skip

    def load(self, device: str, setting: str) -> Checker:
        """Load it, once per process. Raises MissingResourceError."""
        import torch  # noqa: F401 - it is about to be loaded: its weights are compared in this process

        missing, folder = self.missing(setting), self.folder()
        if missing or folder is None:
            raise MissingResourceError(missing or f"no safety checker at {self.source}.")
        return load_checker(folder, device)


class Checker:
    """diffusers' checker in memory, with the preprocessing that belongs to it."""

    def __init__(self, network: Any, processor: Any) -> None:
        self.network, self.processor = network, processor

    def scores(self, images: Sequence[np.ndarray], adjustment: float) -> list[ConceptScores]:
        """Score images (H, W, 3) uint8, which stay as they are. Raises ValueError if a score is not finite."""
        import torch

        with torch.no_grad():
            vectors = self.network.visual_projection(self.network.vision_model(self.pixels(images))[1])
        return self.scores_of(vectors, adjustment)

    def scores_of(self, vectors: Tensor, adjustment: float) -> list[ConceptScores]:
        """Score image embeddings (B, D)."""
        from diffusers.pipelines.stable_diffusion.safety_checker import cosine_distance

        net = self.network
        special = cosine_distance(vectors, net.special_care_embeds).detach().cpu().float().numpy()
        concepts = cosine_distance(vectors, net.concept_embeds).detach().cpu().float().numpy()
        if not (np.isfinite(special).all() and np.isfinite(concepts).all()):
            raise ValueError("the safety checker's scores are not finite")
        limits = [w.detach().cpu().numpy() for w in (net.special_care_embeds_weights, net.concept_embeds_weights)]
        return [image_scores(one, limits[0], other, limits[1], adjustment)
                for one, other in zip(special, concepts, strict=True)]

    def pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return what the network reads: (B, 3, S, S) float32."""
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        pixels: Tensor = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return pixels.to(self.network.device)


@lru_cache(maxsize=1)
def load_checker(folder: Path, device: str) -> Checker:
    """Load a checker in float32 from safetensors, once per process."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = StableDiffusionSafetyChecker.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                           dtype=torch.float32).eval().to(device)  # fmt: skip
    for place in (folder, folder.parent / "feature_extractor"):
        if (place / "preprocessor_config.json").is_file():
            return Checker(network, CLIPImageProcessorPil.from_pretrained(place, local_files_only=True))
    side = network.config.vision_config.image_size
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return Checker(network, CLIPImageProcessorPil(**size))
