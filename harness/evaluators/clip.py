"""A CLIP for evaluators: where it is, and its unit features of images and texts. Never downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.evaluators.model_source import ModelSource
from harness.lib.wanted import Download, HubFiles
from harness.lib.weights import sha256_of_all
from harness.models.folder import is_folder_source, weight_files

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizerFast

Features = NDArray[np.float32]
SMALL_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
               "merges.txt", "special_tokens_map.json")  # fmt: skip


@dataclass(frozen=True)
class ClipSource(ModelSource):
    """Names a CLIP in transformers' format: a hub id with a revision, a folder, or `pkg://package/folder`."""

    revision: str | None = None
    what: str = "CLIP"

    kind: ClassVar[str | None] = "CLIPModel"

    def missing(self) -> str | None:
        """Say in one line what is missing and how to get it."""
        folder = self.folder()
        if folder is None:
            return self.not_cached()
        if (folder / "config.json").is_file() and weight_files(folder, None):
            return self.not_whole(folder)
        if (folder / "pytorch_model.bin").is_file():
            return (f"the CLIP in {folder} is a pickle (pytorch_model.bin), which is not read. Set a revision with "
                    "model.safetensors, or convert it: https://huggingface.co/spaces/safetensors/convert")
        return f"no CLIP (config.json and model.safetensors) in {folder}"

    def downloads(self) -> tuple[HubFiles, ...]:
        """Return what to fetch of the hub: configs, tokenizer and weights; nothing for a folder."""
        if is_folder_source(self.source):
            return ()
        return (HubFiles(self.source, self.revision, SMALL_FILES, ("model.safetensors",)),)

    def identity(self) -> Mapping[str, Any]:
        """Return the name and the hash of weights, tokenizer and preprocessing."""
        folder = self.folder()
        files = _files(folder) if folder else []
        return {"clip": self.named(), "revision": self.revision, "weights_sha256": sha256_of_all(files)}

    def load(self, device: str) -> Clip:
        """Load it, once per process and device. Raises MissingResourceError."""
        return _load(str(self.required()), device)


class SeesByClip:
    """What evaluators and extractors share that look through a CLIP, named by `source` and `revision`."""

    source: str
    revision: str | None
    _clip: Clip | None

    @property
    def clip_source(self) -> ClipSource:
        return ClipSource(self.source, self.revision)

    def missing(self) -> str | None:
        return self.clip_source.missing()

    def downloads(self) -> Sequence[Download]:
        return self.clip_source.downloads()

    def setup(self, device: str) -> None:
        self._clip = self.clip_source.load(device)


def _files(folder: Path) -> list[Path]:
    names = ("config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json", "merges.txt")
    return [*weight_files(folder, None), *(folder / name for name in names if (folder / name).is_file())]


@lru_cache(maxsize=2)
def _load(folder: str, device: str) -> Clip:
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    model = model.eval().to(device)
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    if (Path(folder) / "preprocessor_config.json").is_file():
        processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    else:
        side = model.config.vision_config.image_size
        processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return Clip(model, tokenizer, processor)


class Clip:
    """Both towers, float32. PIL preprocessing, since torchvision's resize shifts scores."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizerFast, processor: Any) -> None:
        self._model, self._tokenizer, self._processor = model, tokenizer, processor
        self.width = int(model.config.projection_dim)
        self.logit_scale = float(model.logit_scale.exp().item())
        self._max_tokens = int(model.config.text_config.max_position_embeddings)

    def image_features(self, images: Sequence[NDArray[np.uint8]]) -> Features:
        """Embed (H, W, 3) uint8 RGB images of any size: (B, D) rows of length 1."""
        return _unit(self._embed(images))

    def image_embeddings(self, images: Sequence[NDArray[np.uint8]]) -> Features:
        """Embed images as `image_features` does, without scaling: (B, D)."""
        array: Features = self._embed(images).float().cpu().numpy()
        return array

    def _embed(self, images: Sequence[NDArray[np.uint8]]) -> Any:
        import torch
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"].to(self._model.device)
        with torch.inference_mode():
            return _tensor(self._model.get_image_features(pixel_values=pixels))

    def text_features(self, texts: Sequence[str]) -> Features:
        """Embed texts, cut to the context length: (B, D) rows of length 1."""
        import torch

        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode():
            embeddings = self._model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
        return _unit(_tensor(embeddings))

    def is_truncated(self, text: str) -> bool:
        """Return whether a text exceeds the context length."""
        return len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"]) > self._max_tokens

    def class_probabilities(self, images: Sequence[NDArray[np.uint8]], texts: Features) -> NDArray[np.float64]:
        """Softmax over `logit_scale * cosine` with each of (C, D) unit text features: (B, C)."""
        return softmax(self.logit_scale * (self.image_features(images) @ texts.T))


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64."""
    shifted = np.asarray(logits, dtype=np.float64) - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    result: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return result


def _tensor(output: Any) -> Any:
    """Take the projected features: transformers 5 wraps them in an output object, 4 returns the tensor."""
    return getattr(output, "pooler_output", output)


def _unit(features: Any) -> Features:
    array: Features = (features / features.norm(dim=-1, keepdim=True)).float().cpu().numpy()
    return array
