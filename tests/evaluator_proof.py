"""What each evaluator was held against, how well both agree, and how fast it is: the table of docs/evaluators.md.

`python -m tests.evaluator_proof [name ...]` measures and prints it; speeds are ratios of one run, best of three rounds
in turn. Weights that are not on this machine are replaced by random ones of a small network, and that is said: they
show that the arithmetic is the reference's, not that the judge is a good one.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # fixtures are found as pytest finds them

from evaluator_fixtures import item, picture, random_clip

from harness.build import build
from harness.compose import compose_jobs, config_names
from harness.evaluator import CompositeEvaluator
from harness.features import evaluator_fingerprint
from harness.records import ScoreItem, Verdict

MICRO_CLIP = "pkg://harness.micro/weights/clip"
ROUNDS = 3
IMAGES = 32


@dataclass(frozen=True)
class Proof:
    """One row: what was compared with what, by which weights, the largest difference, and our speed over theirs."""

    reference: str
    weights: str
    agreement: str
    speed: str = "—"


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def faster(reference: Callable[[], object], own: Callable[[], object]) -> str:
    """Return how many times as fast ours is."""
    reference(), own()
    pairs = [(seconds(reference), seconds(own)) for _ in range(ROUNDS)]
    return f"{min(a for a, _ in pairs) / min(b for _, b in pairs):.1f} x"


def largest(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> str:
    difference = float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max())
    return f"largest difference {difference:.0e} of {np.size(np.asarray(a))} numbers"


def ready(evaluator: Any) -> Any:
    missing = evaluator.missing()
    assert missing is None, missing
    evaluator.setup("cpu")
    return evaluator


def items(count: int = IMAGES, size: tuple[int, int] = (64, 64)) -> list[ScoreItem]:
    words = ("a tree and a house", "a teacher", "a pilot and a ball", "a flower at night")
    return [item(i, picture(i, size), prompt=words[i % 4]) for i in range(count)]


def nudenet(folder: Path) -> Proof:
    """`NudeDetector.detect`, boxes, labels and scores; speed against the better of detect and detect_batch."""
    from nudenet import NudeDetector
    from PIL import Image
    from test_evaluators_nudenet import drawings

    from harness.evaluators.nudenet import NudeNet
    from harness.evaluators.nudenet_check import agreement, speed

    ours, package = ready(NudeNet("nudenet", "safedir", threads=2)), NudeDetector()
    found = agreement(ours._detector, package, drawings())
    square = [np.asarray(Image.fromarray(image).resize((512, 512))) for image in drawings()] * 2
    said = (f"{found.n_detections} detections in {found.n_images} drawings, {found.n_differing} differ; scores to "
            f"{found.largest_score_difference:.0e}")
    return Proof("nudenet's own `detect`", "its wheel's", said, f"{speed(ours._detector, package, square).ratio:.1f} x")


def frechet(folder: Path) -> Proof:
    """clean-fid's functions of features."""
    from cleanfid import fid as cleanfid

    from harness.metrics import frechet_distance, kernel_distance

    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(2500, 2048)) + shift for shift in (0, 0.01)]
    (mu1, s1), (mu2, s2) = ((x.mean(axis=0), np.cov(x, rowvar=False)) for x in sets)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cleanfid.frechet_distance(mu1, s1, mu2, s2)
    reference = time.perf_counter() - began
    own = min(seconds(lambda: frechet_distance(mu1, s1, mu2, s2)) for _ in range(ROUNDS))
    relative = abs(frechet_distance(mu1, s1, mu2, s2) / theirs - 1)
    small = [x[:200, :64].astype(np.float32) for x in sets]
    np.random.seed(0)  # clean-fid draws its subsets from NumPy's global state
    kid = cleanfid.kernel_distance(*small, num_subsets=1, max_subset_size=200)
    ours = kernel_distance(*small, seed=0, subsets=1, subset_size=200).mean
    said = f"FID of 2,048 features: relative difference {relative:.0e}; KID: {abs(kid - ours):.0e}"
    return Proof("clean-fid's `frechet_distance`, `kernel_distance`", "none needed", said, f"{reference / own:.0f} x")


def lpips(folder: Path) -> Proof:
    """The package, pair by pair, at the 64 pixels of ESD's script."""
    import lpips as package
    import torch
    from PIL import Image

    from harness.evaluators.lpips import Lpips

    ours = Lpips("lpips", size=64)
    ours._model = network = package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    pairs = [item(i, picture(i, (96, 96)), baseline=picture(i + 100, (96, 96))) for i in range(IMAGES)]

    def small(image: np.ndarray) -> Any:
        return package.im2tensor(np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)))

    def theirs() -> list[float]:
        with torch.no_grad():
            return [float(network(small(one.image), small(one.baseline))) for one in pairs]

    own = [row.value for row in ours.score(pairs)]
    return Proof("lpips 0.1.4, pair by pair", "its heads, random trunk", largest(own, theirs()),
                 faster(theirs, lambda: ours.score(pairs)))


def transformers_clip(source: str, images: Sequence[ScoreItem], texts: Sequence[str], alone: bool) -> Callable[[], Any]:
    """Return a run of transformers' CLIPModel: logits per image over its scale; image by image where `alone`."""
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
    length = model.config.text_config.max_position_embeddings

    def cosines(part: Sequence[ScoreItem], words: Sequence[str]) -> np.ndarray:
        pixels = processor(images=[Image.fromarray(one.image) for one in part], return_tensors="pt")["pixel_values"]
        tokens = tokenizer(list(words), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            found = model(pixel_values=pixels, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            return (found.logits_per_image / model.logit_scale.exp()).numpy()

    def run() -> np.ndarray:
        if not alone:
            return cosines(images, texts)
        return np.array([cosines([one], [text])[0, 0] for one, text in zip(images, texts, strict=True)])

    return run


def clip_score(folder: Path) -> Proof:
    """transformers' CLIPModel, one image and its prompt at a time."""
    from harness.evaluators.clip_score import ClipScore

    ours, asked = ready(ClipScore("clip_score", MICRO_CLIP)), items()
    theirs = transformers_clip(MICRO_CLIP, asked, [one.prompt for one in asked], alone=True)
    own = [row.value for row in ours.score(asked)]
    return Proof("transformers' `CLIPModel`, image by image", "the embedded world's CLIP", largest(own, theirs()),
                 faster(theirs, lambda: ours.score(asked)))


def clip_attribute(folder: Path) -> Proof:
    """Softmax of transformers' logits per image."""
    from harness.evaluators.clip_attribute import ClipAttribute

    texts = {"round": "a round person", "square": "a square person"}
    ours, asked = ready(ClipAttribute("attribute", MICRO_CLIP, texts)), items()
    cosines = transformers_clip(MICRO_CLIP, asked, list(texts.values()), alone=False)()
    logits = ours._clip.logit_scale * cosines.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    own = [[row.values[name] for name in texts] for row in ours.score(asked)]
    return Proof("softmax of transformers' `logits_per_image`", "the embedded world's CLIP", largest(own, expected))


def q16(folder: Path) -> Proof:
    """The published formula in float64: softmax of 100 cosines, row 1 inappropriate."""
    import torch

    from harness.evaluators.q16 import Q16
    from harness.evaluators.q16_prompts import read_prompts
    from harness.evaluators.weights import local_path

    file = "pkg://harness.micro/weights/q16.safetensors"
    ours, asked = ready(Q16("q16", MICRO_CLIP, file)), items()
    features = torch.from_numpy(ours._clip.image_features([one.image for one in asked])).double()
    prompts = torch.from_numpy(read_prompts(local_path(file))).double()
    similarity = torch.nn.functional.cosine_similarity(features[:, None], prompts[None], dim=-1)
    expected = (100 * similarity).softmax(dim=-1)[:, 1].numpy()
    own = [row.values["p_inappropriate"] for row in ours.score(asked)]
    return Proof("the published formula in float64", "the embedded world's CLIP and prompts", largest(own, expected))


def safety_checker(folder: Path) -> Proof:
    """diffusers' StableDiffusionSafetyChecker."""
    from test_evaluators_safety_checker import images
    from test_methods_safety_checker import checker_folder

    from harness.evaluators.checker import load_checker
    from harness.evaluators.safety_checker import SafetyCheckerJudge

    ours, shown = ready(SafetyCheckerJudge("safety_checker", str(checker_folder()))), images(64)
    loaded = load_checker(checker_folder(), "cpu")
    blank = [np.zeros((1, 1, 3)) for _ in shown]
    flags = loaded.network(clip_input=loaded.pixels(shown), images=blank)[1]
    own = [row.verdict is Verdict.UNSAFE for row in ours.score([item(i, image) for i, image in enumerate(shown)])]
    same = sum(a == b for a, b in zip(own, flags, strict=True))
    return Proof("diffusers' `StableDiffusionSafetyChecker`", "random", f"{same} of {len(shown)} flags are the same")


def resnet(folder: Path) -> Proof:
    """transformers' ResNetForImageClassification."""
    import torch
    from PIL import Image
    from test_evaluators_resnet import random_resnet
    from transformers import AutoImageProcessor, ResNetForImageClassification

    from harness.evaluators.resnet_objects import TargetAccuracy

    place = random_resnet(folder / "resnet")
    ours, asked = ready(TargetAccuracy("objects", place)), items()
    processor = AutoImageProcessor.from_pretrained(place, backend="pil")
    pixels = processor(images=[Image.fromarray(one.image) for one in asked], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = ResNetForImageClassification.from_pretrained(place).eval()(pixels).logits.softmax(-1).numpy()
    found = ours._network.probabilities([one.image for one in asked])
    return Proof("transformers' `ResNetForImageClassification`", "random", largest(found, expected))


def similarity(folder: Path) -> Proof:
    """Cosines of transformers' image embeddings."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel

    from harness.evaluators.clip_similarity import ClipImageSimilarity

    place = random_clip(folder / "clip")
    pairs = [item(i, picture(i), baseline=picture(i + 100)) for i in range(IMAGES)]
    model, processor = CLIPModel.from_pretrained(place).eval(), CLIPImageProcessorPil.from_pretrained(place)

    def embedded(images: Sequence[np.ndarray]) -> Any:
        pixels = processor(images=[Image.fromarray(one) for one in images], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            return model.get_image_features(pixel_values=pixels).pooler_output

    both = embedded([one.image for one in pairs]), embedded([one.baseline for one in pairs])
    expected = torch.nn.functional.cosine_similarity(*both).numpy()
    own = [row.value for row in ready(ClipImageSimilarity("similarity", place)).score(pairs)]
    return Proof("cosine of transformers' image embeddings", "random", largest(own, expected))


def hazards(folder: Path) -> Proof:
    """The truth of rendered scenes: what was drawn."""
    from harness.micro.hazard_judge import HazardJudge

    ours = ready(HazardJudge("hazard_judge", 0.5))
    shown, truth = rendered(300)
    said = [row.verdict is Verdict.UNSAFE for row in ours.score([item(i, image) for i, image in enumerate(shown)])]
    unsafe = [found for found, real in zip(said, truth, strict=True) if real]
    safe = [not found for found, real in zip(said, truth, strict=True) if not real]
    text = f"sensitivity {np.mean(unsafe):.3f} of {len(unsafe)}, specificity {np.mean(safe):.3f} of {len(safe)} renders"
    return Proof("what was drawn", "its own", text)


def rendered(count: int) -> tuple[list[np.ndarray], list[bool]]:
    """Render scenes that no part was trained on, and say which show a hazard."""
    from harness.micro.world import render, sample_scene

    rng = np.random.default_rng(20_000)
    scenes = [sample_scene(rng) for _ in range(count)]
    return [render(scene) for scene in scenes], [bool(scene.hazards) for scene in scenes]


PROOFS: Mapping[str, Callable[[Path], Proof]] = {
    "NudeNet": nudenet, "Fid": frechet, "Lpips": lpips, "ClipScore": clip_score, "ClipAttribute": clip_attribute,
    "Q16": q16, "SafetyCheckerJudge": safety_checker, "TargetAccuracy": resnet, "OtherAccuracy": resnet,
    "ClipImageSimilarity": similarity, "HazardJudge": hazards,
}  # fmt: skip


def fingerprint(name: str) -> str:
    """Return the fingerprint of a shipped evaluator; without its weights here it has none."""
    (job,) = compose_jobs([f"evaluators=[{name}]", "method=none", "model=micro"], False)
    made = {str(config["name"]): build(config) for config in job.evaluators}
    if any(evaluator.missing() for evaluator in made.values()):
        return "weights not here"
    own = made[name]
    parts = {part: made[part] for part in own.parts} if isinstance(own, CompositeEvaluator) else {}
    return f"`{evaluator_fingerprint(own, parts)}`"


def main(names: Sequence[str]) -> None:
    rows = ["| evaluator | fingerprint | held against | weights | agreement | speed |", "|---|---|---|---|---|---|"]
    known: dict[str, Proof] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in names or config_names("evaluator"):
            (job,) = compose_jobs([f"evaluators=[{name}]", "method=none", "model=micro"], False)
            kind = str(next(c["_target_"] for c in job.evaluators if c["name"] == name)).rpartition(".")[2]
            if kind in PROOFS and kind not in known:
                known[kind] = PROOFS[kind](Path(place))
            one = known.get(kind) or Proof("its definition, in tests", "—", "—")
            row = (f"`{name}`", fingerprint(name), one.reference, one.weights, one.agreement, one.speed)
            rows.append("| " + " | ".join(row) + " |")
            print(row, file=sys.stderr, flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
