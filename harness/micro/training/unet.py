"""Train the micro-U-Net to predict noise on the VAE's latents, on several single-threaded processes."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch.multiprocessing import start_processes
from transformers import CLIPTextModel, CLIPTokenizer

from harness.micro.grammar import caption
from harness.micro.models import make_scheduler, make_unet, make_unet_v
from harness.micro.training.common import (
    Recipe,
    Workspace,
    load_state,
    log,
    optimizer_of,
    replace_atomically,
    report,
    rng_of,
    save_state,
    seeded_init,
    set_lr,
    set_up_log,
    torch_rng_of,
)  # fmt: skip
from harness.micro.training.export import export_unet
from harness.micro.training.pictures import world_pictures, world_scene
from harness.micro.training.vae import encode
from harness.micro.world import Scene

RECIPE = Recipe(steps=2800, batch=48, lr=1.2e-3, warmup=100, flat=0.5)
# A second phase draws what is hard, two things in one image and implied hazards, more often.
FOCUS = Recipe(steps=4000, batch=48, lr=8e-4, warmup=100, flat=0.4)
# micro_v's starts from the trained U-Net and learns to predict v from another text encoder.
FINETUNE = Recipe(steps=3200, batch=48, lr=8e-4, warmup=100, flat=0.4)
TWO_THINGS, CONTEXT, HAZARD = 1.5, 2.2, 1.3  # relative frequency in the second phase; one benign thing: 1
KEY = 15
RANKS = 2
CAPTIONS = 4  # captions per image, drawn from again in every step
# Captions are dropped for 10 % of all images, rarely for those with a hazard: the unconditional model is benign.
DROPOUT_BENIGN, DROPOUT_HAZARD = 0.124, 0.04
DROPOUT_HAZARD_FOCUS = 0.015
EMA = 0.998
SAVE_EVERY = 250


@dataclass(frozen=True)
class Kind:
    """A U-Net of the embedded world: how it is made, what it predicts and in which phases it is trained."""

    part: str
    folder: str  # of the pipeline, in the weights
    make: Callable[[], UNet2DConditionModel]
    key: int
    prediction_type: str
    phases: tuple[tuple[int, Recipe], ...]  # which frequency of the images, and how long

    def pipeline(self, workspace: Workspace) -> Path:
        """The pipeline folder."""
        return workspace.weights / self.folder

    def other_parts(self, workspace: Workspace) -> dict[str, Path]:
        """Where the pipeline's other parts are; all U-Nets share one VAE, and so the latents."""
        parts = self.pipeline(workspace)
        vae = workspace.weights / "pipeline" / "vae"
        return {"tokenizer": parts / "tokenizer", "text_encoder": parts / "text_encoder", "vae": vae}


EPSILON = Kind("unet", "pipeline", make_unet, KEY, "epsilon", ((0, RECIPE), (1, FOCUS)))
V = Kind("unet_v", "pipeline_v", make_unet_v, 17, "v_prediction", ((1, FINETUNE),))
KINDS = {kind.part: kind for kind in (EPSILON, V)}


@dataclass(frozen=True)
class Shard:
    """One process's share of the training data."""

    latents: torch.Tensor  # (N, 4, 16, 16) float32, scaled
    tokens: torch.Tensor  # (N, CAPTIONS, 77) long
    frequency: torch.Tensor  # (2, N) relative frequency of an image in each phase
    dropout: torch.Tensor  # (2, N) probability to drop its caption in each phase
    empty: torch.Tensor  # (77,) tokens of the empty caption


def load_shard(workspace: Workspace, kind: Kind, rank: int) -> Shard:
    """Encode every RANKS-th image (cached) and its captions."""
    folder = kind.pipeline(workspace)
    pictures = world_pictures(workspace)
    index = range(rank, len(pictures), RANKS)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scenes = [world_scene(i) for i in index]
    texts = [caption(s, rng) for s, i in zip(scenes, index, strict=True) for rng in [rng_of(KEY, 5, i)]
             for _ in range(CAPTIONS)]  # fmt: skip
    tokens = tokenize(tokenizer, [*texts, ""])
    frequency = torch.tensor([[1.0] * len(scenes), [focus_frequency(s) for s in scenes]])
    dropout = torch.tensor(
        [[hazard if s.hazards else DROPOUT_BENIGN for s in scenes] for hazard in (DROPOUT_HAZARD, DROPOUT_HAZARD_FOCUS)]
    )
    latents = _latents(workspace, pictures, rank)
    return Shard(latents, tokens[:-1].view(len(scenes), CAPTIONS, 77), frequency, dropout, tokens[-1])


def focus_frequency(scene: Scene) -> float:
    """How often the second phase draws a scene; the same whether or not an implied hazard is drawn."""
    if any(entity.context for entity in scene.entities):
        return CONTEXT
    if scene.hazards:
        return HAZARD
    return TWO_THINGS if len(scene.entities) > 1 else 1.0


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Pad or cut to 77 tokens, (B, 77), as the pipeline does."""
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def _latents(workspace: Workspace, pictures: np.ndarray, rank: int) -> torch.Tensor:
    path = workspace.cache / f"latents_{len(pictures)}_{rank}of{RANKS}.pt"
    if not path.exists():
        log.info("unet rank %d: encoding %d pictures", rank, len(pictures) // RANKS)
        folder = workspace.weights / "pipeline" / "vae"
        vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
        mine = pictures[rank::RANKS]
        parts = [encode(vae, mine[i : i + 64]) for i in range(0, len(mine), 64)]
        latents = torch.cat(parts) * vae.config.scaling_factor
        replace_atomically(path, lambda p: torch.save(latents, p))
    return torch.load(path, weights_only=True)


def noise_loss(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    shard: Shard,
    phase: int,
    batch: int,
    scheduler: DDIMScheduler,
    key: tuple[int, ...],
) -> torch.Tensor:
    """Squared error of the predicted noise or v, weighted by sqrt(min(SNR, 5) / SNR) (half-strength min-SNR-5)."""
    generator = torch_rng_of(*key)
    index = draw_pictures(shard, phase, batch, generator)
    tokens = shard.tokens[index, torch.randint(CAPTIONS, (batch,), generator=generator)]
    dropped = torch.rand(batch, generator=generator) < shard.dropout[phase, index]
    tokens = torch.where(dropped[:, None], shard.empty, tokens)
    x = shard.latents[index]
    noise = torch.randn(x.shape, generator=generator)
    t = torch.randint(len(scheduler.alphas_cumprod), (batch,), generator=generator)
    a = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    wanted = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(x, noise, t)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            hidden = text(tokens).last_hidden_state
        predicted = unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, hidden.float()).sample
    snr = a / (1 - a)
    weight = (snr.clamp(max=5) / snr).sqrt()
    return (weight * (predicted.float() - wanted).square()).mean()


def draw_pictures(shard: Shard, phase: int, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Draw image numbers, (B,), evenly in the first phase and by frequency in the second."""
    if phase == 0:
        return torch.randint(len(shard.latents), (batch,), generator=generator)
    return torch.multinomial(shard.frequency[phase], batch, replacement=True, generator=generator)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Average the gradients over the processes, as one flat tensor."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for p in parameters:
        if p.grad is not None:
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()


@torch.no_grad()
def update_average(average: UNet2DConditionModel, unet: UNet2DConditionModel, step: int) -> None:
    """Move the exponential moving average; its memory grows during the first steps."""
    decay = min(EMA, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)


class Replica:
    """One process's U-Net, its average, its optimizer and its share of the data."""

    def __init__(self, workspace: Workspace, kind: Kind, rank: int) -> None:
        self.workspace, self.kind, self.rank = workspace, kind, rank
        self.phases = tuple((phase, recipe.scaled(workspace.scale)) for phase, recipe in kind.phases)
        self.shard = load_shard(workspace, kind, rank)
        folder = kind.pipeline(workspace) / "text_encoder"
        self.text = CLIPTextModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.unet: UNet2DConditionModel = seeded_init(kind.make, kind.key).train()
        if kind.prediction_type != "epsilon":
            start_from(self.unet, EPSILON.pipeline(workspace) / "unet")
        self.unet.set_attn_processor(AttnProcessor())  # faster to train on a CPU than the fused kernel
        self.average = copy.deepcopy(self.unet).requires_grad_(False)
        self.parameters = list(self.unet.parameters())
        self.optimizer = optimizer_of(iter(self.parameters), self.phases[0][1].lr)
        self.scheduler = make_scheduler(kind.prediction_type)

    @property
    def checkpoint(self) -> Path:
        """The state to resume from."""
        return self.workspace.checkpoints / f"{self.kind.part}.pt"

    def resume(self) -> int:
        """Load the checkpoint, if there is one; return the next step."""
        state = load_state(self.checkpoint)
        if state is None:
            return 0
        self.unet.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def train(self, step: int) -> float:
        """Take one step on the gradients of all processes; return this process's loss."""
        begun, phase, recipe = self._phase(step)
        key = (self.kind.key, 6, step, self.rank)
        loss = noise_loss(self.unet, self.text, self.shard, phase, recipe.batch // RANKS, self.scheduler, key)
        loss.backward()
        average_gradients(self.parameters)
        set_lr(self.optimizer, recipe.lr_at(step - begun))
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        update_average(self.average, self.unet, step)
        return loss.item()

    def _phase(self, step: int) -> tuple[int, int, Recipe]:
        begun = 0
        for phase, recipe in self.phases:
            if step < begun + recipe.steps:
                return begun, phase, recipe
            begun += recipe.steps
        raise IndexError(f"step {step} of {begun}")

    @property
    def steps(self) -> int:
        """The number of steps of all phases."""
        return sum(recipe.steps for _, recipe in self.phases)

    def save(self, step: int) -> None:
        """Write the checkpoint and a draft of the pipeline."""
        save_state(
            self.checkpoint,
            model=self.unet.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            step=step,
        )
        self.export(self.workspace.draft / self.kind.folder)

    def export(self, folder: Path) -> None:
        """Write a pipeline folder around the average."""
        export_unet(self.average, self.kind.prediction_type, self.kind.other_parts(self.workspace), folder)


def start_from(unet: UNet2DConditionModel, folder: Path) -> None:
    """Take over a trained U-Net's weights where the shapes agree; 1 x 1 convolutions become linear projections."""
    trained = load_file(folder / "diffusion_pytorch_model.safetensors")
    state = unet.state_dict()
    fitting = {name: value.float().squeeze() if value.ndim > state[name].ndim else value.float()
               for name, value in trained.items()}  # fmt: skip
    fitting = {name: value for name, value in fitting.items() if value.shape == state[name].shape}
    unet.load_state_dict(fitting, strict=False)


def _worker(rank: int, workspace: Workspace, part: str, rendezvous: str, losses_path: str) -> None:
    torch.set_num_threads(1)
    set_up_log(workspace)  # a spawned process starts without the driver's log
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS)
    replica = Replica(workspace, KINDS[part], rank)
    losses: list[float] = []
    running = 0.0
    dist.barrier()
    for step in range(replica.resume(), replica.steps):
        losses.append(replica.train(step))
        running = losses[-1] if running == 0 else 0.98 * running + 0.02 * losses[-1]
        if rank == 0:
            report(part, step, replica.steps, 50, losses[-1], running=running)
        if rank == 0 and ((step + 1) % SAVE_EVERY == 0 or step + 1 == replica.steps):
            replica.save(step + 1)
    if rank == 0:
        replica.export(replica.kind.pipeline(workspace))
        Path(losses_path).write_text("\n".join(map(str, losses)))
    dist.barrier()
    dist.destroy_process_group()


def train_unet(workspace: Workspace, kind: Kind = EPSILON) -> list[float]:
    """Train, or resume, and write the kind's pipeline; return rank 0's losses of this call's steps."""
    workspace.checkpoints.mkdir(parents=True, exist_ok=True)
    world_pictures(workspace)
    rendezvous = workspace.checkpoints / f"rendezvous_{os.getpid()}"
    losses = workspace.checkpoints / f"losses_{os.getpid()}"
    start_processes(_worker, (workspace, kind.part, str(rendezvous), str(losses)), nprocs=RANKS, start_method="spawn")
    values = [float(line) for line in losses.read_text().split()]
    for path in (rendezvous, losses):
        path.unlink(missing_ok=True)
    return values
