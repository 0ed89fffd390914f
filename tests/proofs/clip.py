"""Judges on CLIP, against transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.cli.compose import compose_jobs
from harness.lib.targets import build
from harness.records import ScoreItem
from tests.proofs.measure import IMAGES, Proof, faster, items, largest, ready, rendered
from tests.support.evaluator_fixtures import item, picture, random_clip

MICRO_CLIP = "pkg://harness.micro/weights/clip"
MICRO_Q16 = "pkg://harness.micro/weights/q16.safetensors"
CLIP_ALONE = "transformers' `CLIPModel`, image by image"
WORLD_CLIP = "the embedded world's CLIP"

Cosines = Callable[[Sequence[ScoreItem], Sequence[str]], np.ndarray]


def transformers_clip(source: str) -> tuple[Cosines, float]:
    """Return a run of transformers' CLIPModel, (B, T) logits per image over its scale, and that scale."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

    from harness.evaluators.clip import ClipSource

    place = ClipSource(source).folder()
    model = CLIPModel.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(place)
    side = model.config.vision_config.image_size
    processor = (CLIPImageProcessorPil.from_pretrained(place) if (Path(place) / "preprocessor_config.json").is_file()
                 else CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}))
    length, scale = model.config.text_config.max_position_embeddings, model.logit_scale.exp().item()

    def cosines(asked: Sequence[ScoreItem], texts: Sequence[str]) -> np.ndarray:
        pixels = processor(images=[Image.fromarray(one.image) for one in asked], return_tensors="pt")["pixel_values"]
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            found = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            return (found.logits_per_image / scale).double().numpy()

    return cosines, scale


def prompt_cosines(asked: Sequence[ScoreItem]) -> tuple[Callable[[], np.ndarray], float]:
    """Return a run over images, each with its own prompt, one at a time; and the model's scale."""
    cosines, scale = transformers_clip(MICRO_CLIP)
    return lambda: np.array([cosines([one], [one.prompt])[0, 0] for one in asked]), scale


def label_probabilities(asked: Sequence[ScoreItem], texts: Sequence[str]) -> Callable[[], np.ndarray]:
    """Return a run of the softmax over texts, one image at a time: (B, T)."""
    cosines, scale = transformers_clip(MICRO_CLIP)

    def run() -> np.ndarray:
        logits = scale * np.concatenate([cosines([one], texts) for one in asked])
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return run


def clip_score(folder: Path) -> Proof:
    from harness.evaluators.clip_score import ClipScore

    ours, asked = ready(ClipScore("clip_score", MICRO_CLIP)), items()
    theirs, _ = prompt_cosines(asked)
    own = [row.value for row in ours.score(asked)]
    return Proof(CLIP_ALONE, WORLD_CLIP, largest(own, theirs()), faster(theirs, lambda: ours.score(asked)))


def pick_score(folder: Path) -> Proof:
    from harness.evaluators.preference import PickScore

    ours, asked = ready(PickScore("pick_score", MICRO_CLIP)), items()
    theirs, scale = prompt_cosines(asked)
    own = [row.value for row in ours.score(asked)]
    return Proof(CLIP_ALONE, WORLD_CLIP, largest(own, scale * theirs()), faster(theirs, lambda: ours.score(asked)))


def clip_attribute(folder: Path) -> Proof:
    from harness.evaluators.clip_attribute import ClipAttribute

    texts = {"round": "a round person", "square": "a square person"}
    ours, asked = ready(ClipAttribute("attribute", MICRO_CLIP, texts)), items()
    theirs = label_probabilities(asked, list(texts.values()))
    own = [[row.values[name] for name in texts] for row in ours.score(asked)]
    return Proof(CLIP_ALONE, WORLD_CLIP, largest(own, theirs()), faster(theirs, lambda: ours.score(asked)))


def zero_shot(folder: Path) -> Proof:
    (job,) = compose_jobs(["evaluators=[clip_zero_shot_micro]", "method=none", "model=micro"], False)
    ours = ready(build(next(config for config in job.evaluators if config["name"] == "clip_zero_shot_micro")))
    asked = [item(i, image) for i, image in enumerate(rendered(IMAGES)[0])]
    theirs = label_probabilities(asked, [*ours.unsafe, *ours.safe])
    own = [row.values["p_unsafe"] for row in ours.score(asked)]
    return Proof(CLIP_ALONE, WORLD_CLIP, largest(own, theirs()[:, : len(ours.unsafe)].sum(axis=1)),
                 faster(theirs, lambda: ours.score(asked)))


def published_q16(asked: Sequence[ScoreItem]) -> Callable[[], np.ndarray]:
    """Return a run of the published formula, one image at a time: P = softmax of 100 cosines, row 1, in float64."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel

    from harness.evaluators.clip import ClipSource
    from harness.evaluators.q16_prompts import read_prompts
    from harness.lib.weights import local_path

    place = ClipSource(MICRO_CLIP).folder()
    model = CLIPModel.from_pretrained(place, dtype=torch.float32).eval()  # its file holds float16
    processor = CLIPImageProcessorPil.from_pretrained(place)
    prompts = torch.from_numpy(read_prompts(local_path(MICRO_Q16))).double()

    def one_image(image: np.ndarray) -> float:
        pixels = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            feature = model.get_image_features(pixel_values=pixels).pooler_output.double()
        return float((100 * torch.nn.functional.cosine_similarity(feature, prompts)).softmax(-1)[1])

    return lambda: np.array([one_image(one.image) for one in asked])


def q16(folder: Path) -> Proof:
    from harness.evaluators.q16 import Q16

    ours, asked = ready(Q16("q16", MICRO_CLIP, MICRO_Q16)), items()
    theirs, own = published_q16(asked), [row.values["p_inappropriate"] for row in ours.score(asked)]
    return Proof("the published formula over transformers' CLIP, image by image", f"{WORLD_CLIP} and prompts",
                 largest(own, theirs()), faster(theirs, lambda: ours.score(asked)))


def similarity(folder: Path) -> Proof:
    """Cosines of transformers' image embeddings."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel

    from harness.evaluators.clip_similarity import ClipImageSimilarity

    place = random_clip(folder / "clip")
    pairs = [item(i, picture(i), baseline=picture(i + 100)) for i in range(IMAGES)]
    model, processor = CLIPModel.from_pretrained(place).eval(), CLIPImageProcessorPil.from_pretrained(place)

    def embedded(image: np.ndarray) -> Any:
        pixels = processor(images=Image.fromarray(image), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            return model.get_image_features(pixel_values=pixels).pooler_output

    def theirs() -> list[float]:
        return [float(torch.nn.functional.cosine_similarity(embedded(one.image), embedded(one.baseline)))
                for one in pairs]

    ours = ready(ClipImageSimilarity("similarity", place))
    own = [row.value for row in ours.score(pairs)]
    return Proof("cosine of transformers' image embeddings, image by image", "random", largest(own, theirs()),
                 faster(theirs, lambda: ours.score(pairs)))
