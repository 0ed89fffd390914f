"""Vision-language models, against transformers."""

from __future__ import annotations

from pathlib import Path

from tests.proofs.measure import IMAGES, Proof, faster, items, largest, ready
from tests.support.evaluator_fixtures import random_llava


def vqa_score(folder: Path) -> Proof:
    """One forward pass of transformers' LLaVA an image, without `generate` or padding: P(\"Yes\") as the next word."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from harness.evaluators.vqa_score import VqaScore

    place = random_llava(folder / "vqa")
    ours, asked = ready(VqaScore("vqa_score", place, dtype="float32")), items()
    model, processor = LlavaForConditionalGeneration.from_pretrained(place).eval(), AutoProcessor.from_pretrained(place)
    yes = processor.tokenizer.convert_tokens_to_ids("Yes")

    def theirs() -> list[float]:
        found = []
        for one in asked:
            text = "USER <image> " + ours.question.replace("{}", one.prompt) + " ASSISTANT"
            read = processor(images=Image.fromarray(one.image), text=text, return_tensors="pt")
            with torch.no_grad():
                found.append(float(model(**read).logits[0, -1].double().softmax(-1)[yes]))
        return found

    own = [row.value for row in ours.score(asked)]
    return Proof("transformers' LLaVA, image by image", "random", largest(own, theirs()),
                 faster(theirs, lambda: ours.score(asked)))


def vlm_judge(folder: Path) -> Proof:
    """transformers' `image-text-to-text` pipeline: the same answers, and so the same labels."""
    from PIL import Image
    from transformers import pipeline

    from harness.evaluators.vlm_judge import VlmJudge
    from tests.evaluators.test_evaluators_vlm import LABELS, WORDS

    question, place = "answer with one word", random_llava(folder / "vlm", WORDS, seed=28)
    ours, asked = ready(VlmJudge("vlm_judge", place, None, question, 1, LABELS)), items()
    pipe = pipeline("image-text-to-text", model=place, device="cpu")

    def theirs() -> list[str]:
        talks = [[{"role": "user", "content": [{"type": "image", "image": Image.fromarray(one.image)},
                                               {"type": "text", "text": question}]}] for one in asked]  # fmt: skip
        return [pipe(text=talk, max_new_tokens=ours.max_new_tokens, do_sample=False, return_full_text=False)[0][
            "generated_text"] for talk in talks]  # fmt: skip

    def answers() -> list[str]:
        return ours._answerer.answers([one.image for one in asked], question)

    own, expected = answers(), theirs()
    same = sum(a.strip() == b.strip() for a, b in zip(own, expected, strict=True))  # a pipeline leaves a space
    return Proof("transformers' `image-text-to-text` pipeline", "random",
                 f"{same} of {IMAGES} answers are the same, {len(set(own))} different ones", faster(theirs, answers))
