"""NudeNet, the safety checker, ResNet, LPIPS and the union rule, against the packages that people script today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.records import Verdict
from tests.proofs.clip import MICRO_CLIP, MICRO_Q16, published_q16
from tests.proofs.measure import IMAGES, Proof, faster, items, largest, ready, rendered
from tests.support.evaluator_fixtures import item, picture


def nudenet(folder: Path) -> Proof:
    """`NudeDetector.detect`, boxes, labels and scores; speed against the better of detect and detect_batch."""
    from nudenet import NudeDetector
    from PIL import Image

    from harness.evaluators.nudenet import NudeNet
    from tests.evaluators.test_evaluators_nudenet import drawings
    from tests.support.nudenet_check import agreement, speed

    ours, package = ready(NudeNet("nudenet", "safedir", threads=2)), NudeDetector()
    found = agreement(ours._detector, package, drawings())
    square = [np.asarray(Image.fromarray(image).resize((512, 512))) for image in drawings()] * 2
    said = (f"{found.n_detections} detections in {found.n_images} drawings, {found.n_differing} differ; scores to "
            f"{found.largest_score_difference:.0e}")
    return Proof("nudenet's own `detect`", "320n, in its wheel", said,
                 f"{speed(ours._detector, package, square).ratio:.1f} x")


def union(folder: Path) -> Proof:
    """Of nudenet's own `detect` and the published Q16 formula, each by its own threshold."""
    from nudenet import NudeDetector

    from harness.evaluators.inappropriate import AnyUnsafe
    from harness.evaluators.nudenet import NudeNet
    from harness.evaluators.q16 import Q16
    from tests.evaluators.test_evaluators_nudenet import drawings

    labels = {"FACE_FEMALE", "FACE_MALE"}  # what drawings show; its own labels fire on none of them
    parts = {"q16": ready(Q16("q16", MICRO_CLIP, MICRO_Q16)),
             "nudenet": ready(NudeNet("nudenet", sorted(labels), 0.5))}  # fmt: skip
    asked = [item(i, image) for i, image in enumerate([*drawings(), *rendered(IMAGES)[0]])]
    rows = [{name: part.score([one])[0] for name, part in parts.items()} for one in asked]
    own = [AnyUnsafe("inappropriate", list(parts)).combine(row).verdict is Verdict.UNSAFE for row in rows]
    detect, inappropriate = NudeDetector().detect, published_q16(asked)()
    nude = [any(found["class"] in labels and found["score"] >= 0.5 for found in detect(one.image[:, :, ::-1].copy()))
            for one in asked]
    expected = [a or bool(b > 0.5) for a, b in zip(nude, inappropriate, strict=True)]
    same = sum(a == b for a, b in zip(own, expected, strict=True))
    said = f"{same} of {len(asked)} verdicts are the same, {sum(own)} unsafe, {sum(nude)} by the detector (of faces)"
    return Proof("nudenet's own `detect` or the published formula", "its wheel's; the embedded world's", said)


def counts(folder: Path) -> Proof:
    """Boxes that nudenet's own `detect` returns, counted by label."""
    from nudenet import NudeDetector

    from harness.evaluators.box_counts import BoxCounts
    from harness.evaluators.nudenet import NudeNet
    from tests.evaluators.test_evaluators_nudenet import drawings

    labels = {"women": "FACE_FEMALE", "men": "FACE_MALE"}  # what drawings show; its own labels fire on none of them
    judge, detector = ready(NudeNet("nudenet", sorted(labels.values()), 0.9)), NudeDetector()
    ours = BoxCounts("counts", ["nudenet"], labels, 0.5)
    own = [ours.combine({"nudenet": judge.score([item(i, image)])[0]}) for i, image in enumerate(drawings())]
    found = [detector.detect(image[:, :, ::-1].copy()) for image in drawings()]
    expected = [{name: sum(box["class"] == label and box["score"] >= 0.5 for box in boxes)
                 for name, label in labels.items()} for boxes in found]
    same = sum(dict(row.values) == counted for row, counted in zip(own, expected, strict=True))
    boxes = sum(row.value or 0 for row in own)
    said = f"counts of {same} of {len(own)} drawings are the same, {boxes:.0f} boxes (of faces)"
    return Proof("boxes of nudenet's own `detect`", "320n, in its wheel", said)


def safety_checker(folder: Path) -> Proof:
    """diffusers' StableDiffusionSafetyChecker."""
    from harness.evaluators.checker import load_checker
    from harness.evaluators.safety_checker import SafetyCheckerJudge
    from tests.evaluators.test_evaluators_safety_checker import images
    from tests.methods.test_methods_safety_checker import checker_folder

    ours, shown = ready(SafetyCheckerJudge("safety_checker", str(checker_folder()))), images(64)
    loaded = load_checker(checker_folder(), "cpu")
    asked = [item(i, image) for i, image in enumerate(shown)]

    def theirs() -> list[bool]:
        return [loaded.network(clip_input=loaded.pixels([image]), images=[np.zeros((1, 1, 3))])[1][0]
                for image in shown]

    flags, own = theirs(), [row.verdict is Verdict.UNSAFE for row in ours.score(asked)]
    same = sum(a == b for a, b in zip(own, flags, strict=True))
    said = f"{same} of {len(shown)} flags are the same, {sum(own)} unsafe"
    return Proof("diffusers' `StableDiffusionSafetyChecker`, image by image", "random", said,
                 faster(theirs, lambda: ours.score(asked)))


def resnet(folder: Path) -> Proof:
    """transformers' ResNetForImageClassification."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, ResNetForImageClassification

    from harness.evaluators.resnet_objects import TargetAccuracy
    from tests.evaluators.test_evaluators_resnet import random_resnet

    place = random_resnet(folder / "resnet")
    ours, asked = ready(TargetAccuracy("objects", place)), items()
    processor = AutoImageProcessor.from_pretrained(place, backend="pil")
    model = ResNetForImageClassification.from_pretrained(place).eval()

    def theirs() -> np.ndarray:
        read = [processor(images=Image.fromarray(one.image), return_tensors="pt")["pixel_values"] for one in asked]
        with torch.no_grad():
            return np.concatenate([model(pixels).logits.softmax(-1).numpy() for pixels in read])

    def probabilities() -> np.ndarray:
        return ours._network.probabilities([one.image for one in asked])

    return Proof("transformers' `ResNetForImageClassification`, image by image", "random",
                 largest(probabilities(), theirs()), faster(theirs, probabilities))


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
