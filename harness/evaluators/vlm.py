"""A vision-language model that answers a question about an image: transformers' image-text-to-text models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import IncompatibleError, unknown_name

DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(name: str, dtype: str) -> None:
    """Raise UnknownNameError for a dtype that models are not loaded in."""
    if dtype not in DTYPES:
        raise unknown_name(f"dtype of {name}", dtype, DTYPES)


class Answerer(ABC):
    """Answers one question about images, the same way every time."""

    @abstractmethod
    def answers(self, images: Sequence[NDArray[np.uint8]], question: str) -> list[str]:
        """Return one text for each (H, W, 3) uint8 RGB image, in order."""


class TransformersAnswerer(Answerer):
    """Greedy decoding of a model in a local folder; one image is one call, so answers do not depend on the batch."""

    def __init__(self, folder: Path, device: str, dtype: str, max_new_tokens: int) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        if not getattr(self._processor, "chat_template", None):
            raise IncompatibleError(f"the processor in {folder} has no chat template.", "Use a model tuned to answer.")
        model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                            dtype=getattr(torch, dtype))  # fmt: skip
        self._model = model.eval().to(device)
        self._tokens = max_new_tokens

    def answers(self, images: Sequence[NDArray[np.uint8]], question: str) -> list[str]:
        return [self._answer(image, question) for image in images]

    def inputs(self, image: NDArray[np.uint8], question: str) -> Any:
        """Return what the model reads of one image and the question."""
        from PIL import Image

        content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": question}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        return inputs.to(self._model.device, self._model.dtype)

    def _answer(self, image: NDArray[np.uint8], question: str) -> str:
        import torch

        inputs = self.inputs(image, question)
        with torch.inference_mode():
            found = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._tokens,
                                         temperature=None, top_p=None, top_k=None, repetition_penalty=None,
                                         return_dict_in_generate=True, output_logits=True)  # fmt: skip
        if not all(bool(torch.isfinite(step).all()) for step in found.logits):  # argmax would still name a word
            raise ValueError("the model's logits are not finite")
        own = found.sequences[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(own, skip_special_tokens=True))
