"""Train micro-CLIP contrastively on images and captions of the world."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from harness.micro.bpe import write_tokenizer
from harness.micro.grammar import caption
from harness.micro.judge import to_input
from harness.micro.models import make_clip
from harness.micro.training.common import Fit, Recipe, Workspace, rng_of, save_half, seeded_init
from harness.micro.training.pictures import pairs_pictures, pairs_scene

RECIPE = Recipe(steps=900, batch=192, lr=1.2e-3)
KEY = 11
MAX_TOKENS = 24
MEAN = (0.5, 0.5, 0.5)


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross-entropy; the target mass is spread over identical captions.

    `image`, `text`: (B, D) of unit length; `same`: (B, B) bool, True where captions are equal.
    """
    logits = scale * image @ text.T
    target = same.float() / same.sum(1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def contrastive_batch(key: int, step: int, batch: int, count: int) -> tuple[list[int], list[str]]:
    """Draw the numbers of neighbouring images among `count`, and a caption of each."""
    rng = rng_of(key, 1, step)
    pairs = rng.permutation(count // 2)[: batch // 2]
    index = [int(i) for pair in pairs for i in (2 * pair, 2 * pair + 1)]
    return index, [caption(pairs_scene(i), rng) for i in index]


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Pad or cut to the few tokens that captions have, (B, 24)."""
    return tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def _loss(model: CLIPModel, tokenizer: CLIPTokenizer, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
    tokens = tokenize(tokenizer, captions)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(input_ids=tokens, pixel_values=pixels)
    same = (tokens[:, None] == tokens[None]).all(-1)
    scale = model.logit_scale.exp().clamp(max=100)
    image, text = (F.normalize(e.float(), dim=1) for e in (out.image_embeds, out.text_embeds))
    return contrastive_loss(image, text, scale, same)


def train_clip(workspace: Workspace) -> list[float]:
    """Train, or resume, and write `weights/clip`; return the losses of this call's steps."""
    recipe = RECIPE.scaled(workspace.scale)
    folder = workspace.weights / "clip"
    tokenizer = write_tokenizer(folder)
    model: CLIPModel = seeded_init(lambda: make_clip(tokenizer), KEY).train()
    model.set_attn_implementation("eager")  # twice as fast to train on a CPU as the fused kernel
    pictures = pairs_pictures(workspace)

    def loss_at(step: int) -> torch.Tensor:
        index, captions = contrastive_batch(KEY, step, recipe.batch, len(pictures))
        return _loss(model, tokenizer, to_input(pictures[index]), captions)

    losses = Fit("clip", recipe, model, loss_at, workspace.checkpoints / "clip.pt", clip_norm=1.0).run()
    export_clip(model, workspace)
    return losses


def export_clip(model: CLIPModel, workspace: Workspace) -> None:
    """Write the model (fp16) and its image processor beside the tokenizer."""
    folder = workspace.weights / "clip"
    model.config.dtype = torch.float16
    model.config.architectures = ["CLIPModel"]
    model.config.save_pretrained(folder)
    save_half(folder / "model.safetensors", dict(model.state_dict()))
    CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=MEAN, image_std=MEAN
    ).save_pretrained(folder)
