"""Measure the trained parts one by one on held-out renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTokenizer

from harness.micro.judge import Judge, load_judge, to_input
from harness.micro.training.judge import Labels, labels_of
from harness.micro.training.pictures import held_out_scene
from harness.micro.training.vae import psnr
from harness.micro.words import ATTRIBUTES, HAZARDS, PLACE_PHRASES, PLACES, PROFESSIONS
from harness.micro.world import Scene, render

COUNT = 2000


def judge_accuracy(judge: Judge, pictures: np.ndarray, labels: Labels) -> dict[str, float]:
    """Share of right verdicts of each head; hazards one by one."""
    output = judge.predict(pictures)
    right = output.hazard_present() == (labels.hazards > 0.5)
    figures = labels.attribute >= 0
    shares = {hazard: float(right[:, k].float().mean()) for k, hazard in enumerate(HAZARDS)}
    shares["attribute"] = float((output.attribute.argmax(1) == labels.attribute)[figures].float().mean())
    shares["profession"] = float((output.profession.argmax(1) == labels.profession).float().mean())
    shares["place"] = float((output.place.argmax(1) == labels.place).float().mean())
    return shares


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Encode and decode (N, 64, 64, 3) uint8; return the images and each one's PSNR in dB."""
    out, decibel = [], []
    for i in range(0, len(pictures), 100):
        batch = pictures[i : i + 100]
        decoded = vae.decode(vae.encode(to_input(batch)).latent_dist.mode()).sample
        out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        decibel.append(psnr(vae, batch))
    return np.concatenate(out), torch.cat(decibel)


@torch.no_grad()
def text_features(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Project texts to unit vectors, (N, D)."""
    tokens = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    pooled = clip.text_model(tokens.input_ids).pooler_output
    return F.normalize(clip.text_projection(pooled), dim=1)


@torch.no_grad()
def image_features(clip: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """Project (N, 64, 64, 3) uint8 images to unit vectors, (N, D)."""
    parts = [clip.vision_model(to_input(pictures[i : i + 200])).pooler_output for i in range(0, len(pictures), 200)]
    return F.normalize(clip.visual_projection(torch.cat(parts)), dim=1)


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order."""
    order = scores.argsort().argsort().double() + 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    return float((order[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def clip_numbers(folder: Path, pictures: np.ndarray, scenes: list[Scene], labels: Labels) -> dict[str, float]:
    """Zero-shot accuracy of places, professions and attributes; AUC of hazards; the Q16 prompts' accuracy."""
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    images = image_features(clip, pictures)
    figures = labels.attribute >= 0

    def best(texts: list[str]) -> torch.Tensor:
        return (images @ text_features(clip, tokenizer, texts).T).argmax(1)

    numbers = {
        "place": float((best([f"an empty place {PLACE_PHRASES[p]}" for p in PLACES]) == labels.place).float().mean()),
        "profession": float((best([f"a {p}" for p in PROFESSIONS]) == labels.profession)[figures].float().mean()),
    }
    pairs = text_features(clip, tokenizer, [f"a {a} {p}" for p in PROFESSIONS for a in ATTRIBUTES]).view(9, 2, -1)
    choices = pairs[labels.profession[figures]]
    guess = torch.einsum("nd,nkd->nk", images[figures], choices).argmax(1)
    numbers["attribute, profession known"] = float((guess == labels.attribute[figures]).float().mean())
    for k, hazard in enumerate(HAZARDS):
        present, absent = text_features(clip, tokenizer, [f"a {hazard}", "a person"])
        numbers[f"AUC a {hazard}"] = auc(images @ (present - absent), labels.hazards[:, k] > 0.5)
    any_hazard = labels.hazards.any(1)
    present, absent = text_features(clip, tokenizer, ["a hazard", "a person"])
    numbers["AUC a hazard"] = auc(images @ (present - absent), any_hazard)
    prompts = load_file(folder / "q16.safetensors")["prompts"].float()
    numbers["Q16 prompts"] = float(((images @ prompts.T).argmax(1) == any_hazard.long()).float().mean())
    numbers["(majority class)"] = float((~any_hazard).float().mean())
    return numbers


def parts_table(folder: Path) -> str:
    """Measure all parts but the U-Net on held-out renders; format as Markdown."""
    scenes = [held_out_scene(i) for i in range(COUNT)]
    pictures, labels = np.stack([render(scene) for scene in scenes]), labels_of(scenes)
    judge = load_judge(weights=folder / "judge.safetensors")
    vae = AutoencoderKL.from_pretrained(folder / "pipeline" / "vae", torch_dtype=torch.float32)
    decoded, decibel = reconstruct(vae, pictures)
    lines = [f"VAE: PSNR mean {decibel.mean():.1f} dB, min {decibel.min():.1f} dB ({COUNT} held-out renders)", ""]
    lines += ["| judge | renders | VAE reconstructions |", "|---|---|---|"]
    on_decoded = judge_accuracy(judge, decoded, labels)
    for name, share in judge_accuracy(judge, pictures, labels).items():
        lines.append(f"| {name} | {share:.2%} | {on_decoded[name]:.2%} |")
    lines += ["", "| micro-CLIP, zero-shot on renders | |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in clip_numbers(folder, pictures, scenes, labels).items()]
    return "\n".join(lines)
