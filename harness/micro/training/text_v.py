"""Train micro_v's wider text encoder on micro-CLIP's image features, which stay as they are."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from harness.micro.bpe import write_tokenizer
from harness.micro.judge import to_input
from harness.micro.models import make_text_v
from harness.micro.training.clip import contrastive_batch, contrastive_loss, tokenize
from harness.micro.training.common import Fit, Recipe, Workspace, log, seeded_init
from harness.micro.training.export import save_text_encoder
from harness.micro.training.pictures import pairs_pictures

RECIPE = Recipe(steps=1500, batch=192, lr=1.2e-3)
KEY = 16
PAD = "!"  # what Stable Diffusion 2's tokenizer fills up with


@torch.no_grad()
def picture_features(clip: CLIPModel, pictures: np.ndarray) -> torch.Tensor:
    """Embed images (N, 64, 64, 3) as unit vectors, (N, 128)."""
    features = []
    for i in range(0, len(pictures), 250):
        pooled = clip.vision_model(pixel_values=to_input(pictures[i : i + 250])).pooler_output
        features.append(clip.visual_projection(pooled))
    return F.normalize(torch.cat(features), dim=1)


def train_text_v(workspace: Workspace) -> list[float]:
    """Train, or resume, and write `weights/pipeline_v/text_encoder`; return the losses of this call's steps."""
    recipe = RECIPE.scaled(workspace.scale)
    folder = workspace.weights / "pipeline_v"
    tokenizer = write_tokenizer(folder / "tokenizer", pad=PAD)
    model: CLIPTextModelWithProjection = seeded_init(lambda: make_text_v(tokenizer), KEY).train()
    model.set_attn_implementation("eager")
    clip = CLIPModel.from_pretrained(workspace.weights / "clip", dtype=torch.float32).eval()
    pictures = pairs_pictures(workspace)
    log.info("text_v: features of %d pictures", len(pictures))
    features = picture_features(clip, pictures)
    scale = clip.logit_scale.detach().exp().clamp(max=100)

    def loss_at(step: int) -> torch.Tensor:
        index, captions = contrastive_batch(KEY, step, recipe.batch, len(pictures))
        return _loss(model, tokenizer, features[index], captions, scale)

    losses = Fit("text_v", recipe, model, loss_at, workspace.checkpoints / "text_v.pt", clip_norm=1.0).run()
    export(model, workspace)
    return losses


def _loss(
    model: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    image: torch.Tensor,
    captions: list[str],
    scale: torch.Tensor,
) -> torch.Tensor:
    tokens = tokenize(tokenizer, captions)
    with torch.autocast("cpu", torch.bfloat16):
        text = model(input_ids=tokens).text_embeds
    same = (tokens[:, None] == tokens[None]).all(-1)
    return contrastive_loss(image, F.normalize(text.float(), dim=1), scale, same)


def export(model: CLIPTextModelWithProjection, workspace: Workspace) -> None:
    """Write the encoder (fp16) without its projection, as Stable Diffusion 2 has it."""
    encoder = CLIPTextModel(model.config)
    wanted = encoder.state_dict()
    tower = {name.removeprefix("text_model."): value for name, value in model.state_dict().items()}
    prefixed = any(name.startswith("text_model.") for name in wanted)
    named = {f"text_model.{name}" if prefixed else name: value for name, value in tower.items()}
    encoder.load_state_dict({name: value for name, value in named.items() if name in wanted})
    save_text_encoder(encoder, workspace.weights / "pipeline_v" / "text_encoder")
