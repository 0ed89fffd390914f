"""Make micro's safety checker as Stable Diffusion's is laid out: micro-CLIP's vision tower and concept thresholds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from harness.micro.judge import to_input
from harness.micro.training.common import Workspace
from harness.micro.training.pictures import held_out_scene
from harness.micro.words import HAZARDS, UMBRELLA
from harness.micro.world import render

FOLDER = "safety_checker"
PLACES = ("", " in a field", " at night", " in the sky", " in a room")
SPECIAL = tuple(f"a {hazard}" for hazard in HAZARDS)
CONCEPTS = (*(f"a {hazard}{place}" for hazard in HAZARDS for place in PLACES), f"a {UMBRELLA}", f"{UMBRELLA}s")


@dataclass(frozen=True)
class CheckerRecipe:
    """How many scenes set the thresholds, and the share of harmless ones that a single concept may flag."""

    pictures: int = 3000
    flagged: float = 0.005
    flagged_special: float = 0.001


RECIPE = CheckerRecipe()


@torch.no_grad()
def text_vectors(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: tuple[str, ...]) -> torch.Tensor:
    """Embed texts as unit vectors, (N, 128)."""
    tokens = tokenizer(list(texts), padding="max_length", max_length=77, return_tensors="pt")
    pooled = clip.text_model(**tokens).pooler_output
    return F.normalize(clip.text_projection(pooled), dim=1)


@torch.no_grad()
def harmless_vectors(clip: CLIPModel, count: int) -> torch.Tensor:
    """Embed renders of the harmless among `count` held-out scenes as unit vectors, (N, 128)."""
    scenes = [scene for scene in map(held_out_scene, range(count)) if not scene.hazards]
    vectors = []
    for i in range(0, len(scenes), 200):
        x = to_input(np.stack([render(scene) for scene in scenes[i : i + 200]]))
        vectors.append(clip.visual_projection(clip.vision_model(pixel_values=x).pooler_output))
    return F.normalize(torch.cat(vectors), dim=1)


def train_checker(workspace: Workspace) -> list[float]:
    """Write `weights/safety_checker`; nothing is learned, thresholds are quantiles of harmless images."""
    source, folder = workspace.weights / "clip", workspace.weights / FOLDER
    clip = CLIPModel.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(source)
    checker = StableDiffusionSafetyChecker(CLIPConfig.from_pretrained(source))
    checker.vision_model.load_state_dict(_matching(checker.vision_model, clip.vision_model.state_dict()))
    checker.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    pictures = harmless_vectors(clip, workspace.pictures(RECIPE.pictures))
    for name, texts, share in (("special_care_embeds", SPECIAL, RECIPE.flagged_special),
                               ("concept_embeds", CONCEPTS, RECIPE.flagged)):  # fmt: skip
        vectors = text_vectors(clip, tokenizer, texts)
        getattr(checker, name).data.copy_(vectors)
        getattr(checker, f"{name}_weights").data.copy_((pictures @ vectors.T).quantile(1 - share, dim=0))
    checker.half().save_pretrained(folder)
    shutil.copy(source / "preprocessor_config.json", folder)
    return []


def _matching(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tower's tensors as `module` does: transformers' versions differ in a leading `vision_model.`."""
    prefix = "vision_model."
    wants = any(name.startswith(prefix) for name in module.state_dict())
    bare = {name.removeprefix(prefix): value for name, value in state.items()}
    return {f"{prefix}{name}": value for name, value in bare.items()} if wants else bare
