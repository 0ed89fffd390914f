"""An image-text-to-text model that is asked one question: how probable is one answer? Never downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluators.weights import local_path, sha256_of_all
from harness.model_files import PACKAGE_PREFIX, cached_snapshot, is_folder_source, weight_files
from harness.sources import HubFiles

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
PROCESSING = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer.model",
              "tokenizer_config.json", "chat_template.json", "chat_template.jinja", "vocab.json", "merges.txt",
              "special_tokens_map.json", "added_tokens.json")  # fmt: skip
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class VqaSource:
    """Names a model of transformers' AutoModelForImageTextToText: a hub id with a revision, or a folder."""

    source: str
    revision: str | None = None
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidValueError(f"dtype {self.dtype} is not one of {', '.join(DTYPES)}.")

    def folder(self) -> Path | None:
        """Return the folder of its files; None for a hub model that is not in the local cache."""
        if is_folder_source(self.source):
            return local_path(self.source)
        return cached_snapshot(self.source, self.revision or "main")

    def missing(self) -> str | None:
        """Say in one line what is not there and how to get it."""
        folder = self.folder()
        if folder is None:
            command = f"hf download {self.source}" + (f" --revision {self.revision}" if self.revision else "")
            return f"the model {self.source} is not in the local cache. Get it: {command}"
        weights = weight_files(folder, None) if (folder / "config.json").is_file() else []
        if not weights or not all(file.is_file() for file in weights):
            return f"there is no whole image-text-to-text model (config.json and safetensors) in {folder}"
        return None

    def downloads(self) -> tuple[HubFiles, ...]:
        """Return what to fetch of the hub: configs, tokenizer and safetensors; nothing for a folder."""
        if is_folder_source(self.source):
            return ()
        return (HubFiles(self.source, self.revision, (*SMALL_FILES, "*.safetensors")),)

    def identity(self) -> Mapping[str, Any]:
        """Return the name and the hash of weights, tokenizer and preprocessing. A local folder has no name."""
        folder = self.folder()
        named = [folder / name for name in PROCESSING if (folder / name).is_file()] if folder else []
        files = [*(weight_files(folder, None) if folder else ()), *named]
        is_local = is_folder_source(self.source) and not self.source.startswith(PACKAGE_PREFIX)
        name = "local" if is_local else self.source
        return {"model": name, "revision": self.revision, "dtype": self.dtype, "weights_sha256": sha256_of_all(files)}

    def load(self, device: str) -> VqaModel:
        """Load it, once per process and device. Raises MissingResourceError."""
        missing, folder = self.missing(), self.folder()
        if missing or folder is None:
            raise MissingResourceError(missing or f"no model at {self.source}")
        return _load(str(folder), self.dtype, device)


@lru_cache(maxsize=1)
def _load(folder: str, dtype: str, device: str) -> VqaModel:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=getattr(torch, dtype)
    )
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return VqaModel(model.eval().to(device), processor)


class VqaModel:
    """A model with its processor, asked through its own chat template."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor
        processor.tokenizer.padding_side = "left"  # the answer follows the last token of every row
        if processor.tokenizer.pad_token_id is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def answer_id(self, answer: str) -> int:
        """Return the token of an answer. Raises IncompatibleError where this model writes it in several."""
        ids = self._processor.tokenizer.encode(answer, add_special_tokens=False)
        if len(ids) != 1:
            raise IncompatibleError(f"the answer {answer!r} is {len(ids)} tokens of this model, and one is needed.")
        return int(ids[0])

    def probabilities(
        self, images: Sequence[NDArray[np.uint8]], questions: Sequence[str], answer: str
    ) -> NDArray[np.float64]:
        """Return how probable it is that the reply to each question on its image begins with the answer: (B,)."""
        import torch
        from PIL import Image

        token = self.answer_id(answer)
        pictures = [Image.fromarray(image) for image in images]
        talks = [
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
            for picture, question in zip(pictures, questions, strict=True)
        ]
        inputs = self._processor.apply_chat_template(
            talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True}, sanitize_control_tokens=True,  # a prompt may hold anything
        ).to(self._model.device, dtype=self._model.dtype)  # fmt: skip
        with torch.inference_mode():
            # One step of `generate`, since it gives padded rows their positions; raw logits, whatever its defaults.
            made = self._model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        found: NDArray[np.float64] = made.logits[0].double().softmax(dim=-1)[:, token].cpu().numpy()
        return found
