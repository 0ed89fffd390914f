"""Vision-language models that are asked about images: transformers' image-text-to-text models. Never downloads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import IncompatibleError

Dtype = Literal["float32", "bfloat16", "float16"]

Images = Sequence[NDArray[np.uint8]]


class Answerer(ABC):
    """Answers one question about images, the same way every time."""

    @abstractmethod
    def answers(self, images: Images, question: str) -> list[str]:
        """Return one text for each (H, W, 3) uint8 RGB image, in order."""


@lru_cache(maxsize=1)
def load_vlm(folder: Path, dtype: str, device: str) -> VisionLanguageModel:
    """Load the model in a local folder, once per process, dtype and device."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not getattr(processor, "chat_template", None):
        raise IncompatibleError(f"the processor in {folder} has no chat template.", "Use an instruction-tuned model.")
    model = AutoModelForImageTextToText.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=getattr(torch, dtype)
    )
    return VisionLanguageModel(model.eval().to(device), processor)


class VisionLanguageModel:
    """A model with its processor, asked through its own chat template, always by greedy decoding."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model, processor
        processor.tokenizer.padding_side = "left"  # the answer follows the last token of every row
        if processor.tokenizer.pad_token_id is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token

    def answer_id(self, answer: str) -> int:
        """Return the token of an answer. Raises IncompatibleError if this model writes it in several."""
        ids = self._processor.tokenizer.encode(answer, add_special_tokens=False)
        if len(ids) != 1:
            raise IncompatibleError(f"the answer {answer!r} has {len(ids)} tokens in this model; it must be one.")
        return int(ids[0])

    def probabilities(self, images: Images, questions: Sequence[str], answer: str) -> NDArray[np.float64]:
        """Return how probable it is that the reply to each question on its image begins with the answer: (B,)."""
        token = self.answer_id(answer)
        # One step of `generate`, since it gives padded rows their positions; raw logits, whatever its defaults.
        made = self._generated(self.inputs(images, questions), max_new_tokens=1)
        distribution: NDArray[np.float64] = made.logits[0].double().softmax(dim=-1)[:, token].cpu().numpy()
        return distribution

    def reply(self, image: NDArray[np.uint8], question: str, max_new_tokens: int) -> str:
        """Return the most probable words. Raises ValueError if logits are not finite."""
        import torch

        inputs = self.inputs([image], [question])
        made = self._generated(inputs, max_new_tokens)
        if not all(bool(torch.isfinite(step).all()) for step in made.logits):  # argmax would still name a word
            raise ValueError("the model's logits are not finite")
        answer_ids = made.sequences[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(answer_ids, skip_special_tokens=True))

    def inputs(self, images: Images, questions: Sequence[str]) -> Any:
        """Return what the model reads of images with a question each, on its device."""
        from PIL import Image

        talks = [
            [{"role": "user", "content": [{"type": "image", "image": Image.fromarray(image)},
                                          {"type": "text", "text": question}]}]
            for image, question in zip(images, questions, strict=True)
        ]  # fmt: skip
        read = self._processor.apply_chat_template(
            talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            processor_kwargs={"padding": True}, sanitize_control_tokens=True,  # a prompt may hold anything
        )  # fmt: skip
        return read.to(self._model.device, dtype=self._model.dtype)

    def _generated(self, inputs: Any, max_new_tokens: int) -> Any:
        import torch

        with torch.inference_mode():
            return self._model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None, repetition_penalty=None, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip


class TransformersAnswerer(Answerer):
    """Answers of a model in a local folder; one image is one call, so they do not depend on the batch."""

    def __init__(self, folder: Path, device: str, dtype: str, max_new_tokens: int) -> None:
        self._model, self._tokens = load_vlm(folder, dtype, device), max_new_tokens

    def answers(self, images: Images, question: str) -> list[str]:
        return [self._model.reply(image, question, self._tokens) for image in images]
