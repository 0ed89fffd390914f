"""Evaluators of any shipped config, ready to judge: with their own weights where these are here, else random ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.evaluator import CompositeEvaluator, Evaluator
from harness.lib.targets import build
from tests.support import evaluator_fixtures

ELSEWHERE = "/nowhere/that/exists"
PLACES = ("source", "prompts", "model", "folder")  # settings that name files of weights


@dataclass
class StandIns:
    """Folders of tiny models with random weights, each made once and when first asked for."""

    root: Path

    @cached_property
    def clip(self) -> dict[str, Any]:
        return {"source": evaluator_fixtures.random_clip(self.root / "clip"), "revision": None}

    @cached_property
    def q16(self) -> dict[str, Any]:
        file = self.root / "prompts.npy"
        np.save(file, np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32))
        return {**self.clip, "prompts": str(file), "prompts_sha256": None}

    @cached_property
    def nudenet(self) -> dict[str, Any]:
        from harness.evaluators.nudenet import _packaged_file

        return {"model": str(_packaged_file()), "size": 320, "weights_sha256": None}

    @cached_property
    def checker(self) -> dict[str, Any]:
        from tests.methods.test_methods_safety_checker import checker_folder

        return {"source": str(checker_folder()), "revision": None}

    @cached_property
    def resnet(self) -> dict[str, Any]:
        from tests.evaluators.test_evaluators_resnet import random_resnet

        return {"source": random_resnet(self.root / "resnet"), "revision": None}

    @cached_property
    def judge(self) -> dict[str, Any]:
        """A language model with random weights says no label: all its words are. This seed's is never silent."""
        from tests.evaluators.test_evaluators_vlm import WORDS

        labels = {f"{a} {b}": "safe" for a in WORDS for b in WORDS} | dict.fromkeys(WORDS, "unsafe")
        labels |= dict.fromkeys(("USER", "ASSISTANT"), "safe")
        source = evaluator_fixtures.random_llava(self.root / "llava", WORDS, seed=28)
        asked = {"prompt": "answer with one word", "labels": labels, "max_new_tokens": 1}
        return {"source": source, "revision": None, **asked}

    @cached_property
    def vqa(self) -> dict[str, Any]:
        return {"source": evaluator_fixtures.random_llava(self.root / "vqa"), "revision": None, "dtype": "float32"}

    @property
    def colour(self) -> dict[str, Any]:
        return {"_target_": "tests.support.evaluator_fixtures.ColourFeatures"}

    @property
    def itself(self) -> dict[str, Any]:
        return {}

    def of(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a config that can be set up here, whatever weights are absent."""
        kind = str(config["_target_"]).rpartition(".")[2]
        if "extractor" in config:
            return config | {"extractor": self.of(config["extractor"])}
        made = build(config)
        if isinstance(made, CompositeEvaluator) or made.missing() is None:
            return config
        if kind not in KINDS:
            raise AssertionError(f"{kind} cannot be set up here: name what stands in for its weights in KINDS.")
        other = getattr(self, KINDS[kind])
        return other if "_target_" in other else config | other


KINDS = {
    "ClipScore": "clip", "ClipAttribute": "clip", "ClipZeroShot": "clip", "ClipImageSimilarity": "clip",
    "ClipFeatures": "clip", "PickScore": "clip", "Q16": "q16", "NudeNet": "nudenet", "SafetyCheckerJudge": "checker",
    "TargetAccuracy": "resnet", "OtherAccuracy": "resnet", "VlmJudge": "judge", "VqaScore": "vqa",
    "CleanFidInception": "colour", "Lpips": "itself",
}  # fmt: skip


def set_up(evaluator: Evaluator) -> Evaluator:
    """Load it. LPIPS without its trunk gets a random one, which its package offers."""
    if type(evaluator).__name__ == "Lpips" and evaluator.missing():
        import lpips

        evaluator._model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    else:
        evaluator.setup("cpu")
    return evaluator


def without_weights(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with every place of weights pointed at nothing."""
    moved = {key: ELSEWHERE for key in PLACES if key in config}
    if str(config["_target_"]).endswith(".NudeNet"):
        moved["model"] = f"{ELSEWHERE}/320n.onnx"
    nested = {"extractor": without_weights(config["extractor"])} if "extractor" in config else {}
    return config | moved | nested


@contextlib.contextmanager
def broken_networks(evaluator: Evaluator):
    """Let every network of an evaluator put out NaN; yield how many parts of networks that are."""
    import torch

    parts = list(_parts(evaluator, set()))
    modules = {id(m): m for part in parts if isinstance(part, torch.nn.Module) for m in part.modules()}
    leaves = [module for module in modules.values() if not list(module.children()) and list(module.parameters())]
    hooks = [leaf.register_forward_hook(lambda module, given, output: output * float("nan")) for leaf in leaves]
    detectors = [part for part in parts if hasattr(part, "_run")]
    for detector in detectors:
        detector._run = partial(_not_a_number, detector)
    fakes = [part for part in parts if isinstance(part, evaluator_fixtures.ColourFeatures)]
    for fake in fakes:
        fake.features = lambda images: np.full((len(images), 3), np.nan, np.float32)
    try:
        yield len(leaves) + len(detectors) + len(fakes)
    finally:
        for hook in hooks:
            hook.remove()
        for part, name in [*((d, "_run") for d in detectors), *((f, "features") for f in fakes)]:
            delattr(part, name)


def _not_a_number(detector: Any, inputs: np.ndarray) -> list[np.ndarray]:
    return [part * np.float32("nan") for part in type(detector)._run(detector, inputs)]


def _parts(thing: Any, seen: set[int]):
    """Walk what an object holds, not into networks."""
    import torch

    if id(thing) in seen or isinstance(thing, str | bytes | int | float | np.ndarray | torch.Tensor | None | type):
        return
    seen.add(id(thing))
    yield thing
    if isinstance(thing, torch.nn.Module):
        return
    held = list(thing.values()) if isinstance(thing, dict) else list(getattr(thing, "__dict__", {}).values())
    if isinstance(thing, list | tuple):
        held = list(thing)
    for one in held:
        if isinstance(one, torch.nn.Module | dict | list | tuple | SimpleNamespace) or type(one).__module__.startswith(
            ("harness", "evaluator_fixtures", "tests", "test_")
        ):
            yield from _parts(one, seen)
