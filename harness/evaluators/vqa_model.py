"""An image-text-to-text model that is asked one question: how probable is one answer? Never downloads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import IncompatibleError


@lru_cache(maxsize=1)
def load_vqa_model(folder: Path, dtype: str, device: str) -> VqaModel:
    """Load the model in a local folder, once per process, dtype and device."""
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
