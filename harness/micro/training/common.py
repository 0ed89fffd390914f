"""What every trained part shares: folders, seeds, schedules, checkpoints, weight files."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

log = logging.getLogger("harness.micro.train")
SEED = 20


@dataclass(frozen=True)
class Recipe:
    """How long and how a part is trained."""

    steps: int
    batch: int
    lr: float
    warmup: int = 50
    flat: float = 0.0  # share of the steps before the cosine decay to zero begins

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with its number of steps multiplied."""
        steps = max(2, round(self.steps * factor))
        return Recipe(steps, self.batch, self.lr, min(self.warmup, max(1, steps // 10)), self.flat)

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, flat, cosine to zero."""
        warm = min(1.0, (step + 1) / self.warmup)
        start = self.flat * self.steps
        progress = max(0.0, (step - start) / max(1.0, self.steps - start))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Workspace:
    """Where a training run keeps its files."""

    root: Path
    scale: float = 1.0  # multiplies every part's steps and image counts

    @property
    def weights(self) -> Path:
        """The finished parts, in the layout of `harness/micro/weights`."""
        return self.root / "weights"

    @property
    def checkpoints(self) -> Path:
        """States to resume from, and markers of finished parts."""
        return self.root / "checkpoints"

    @property
    def cache(self) -> Path:
        """Rendered images and latents."""
        return self.root / "cache"

    @property
    def draft(self) -> Path:
        """A pipeline folder with the U-Net of the moment."""
        return self.root / "draft"

    def pictures(self, count: int) -> int:
        """Scale an image count, keeping it even and at least 256."""
        return max(256, 2 * round(count * min(1.0, self.scale) / 2))


def set_up_log(workspace: Workspace) -> None:
    """Log to the terminal and to `train.log` in the workspace."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(workspace.root / "train.log")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def rng_of(*key: int) -> np.random.Generator:
    """Make a generator that depends on the project seed and the key alone."""
    return np.random.default_rng([SEED, *key])


def torch_rng_of(*key: int) -> torch.Generator:
    """Make a torch CPU generator that depends on the project seed and the key alone."""
    return torch.Generator().manual_seed(int(rng_of(*key).integers(2**62)))


def seeded_init(make: Callable[[], Any], *key: int) -> Any:
    """Build a module whose initial weights depend on the key alone; the global state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng_of(*key).integers(2**62)))
        return make()


def optimizer_of(parameters: Iterator[torch.nn.Parameter], lr: float) -> torch.optim.AdamW:
    """Make AdamW with the settings common to all parts."""
    return torch.optim.AdamW(parameters, lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name in its folder, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    write(temporary)
    os.replace(temporary, path)


def save_state(path: Path, **state: Any) -> None:
    """Write a checkpoint (state dicts and plain numbers)."""
    replace_atomically(path, lambda p: torch.save(state, p))


def load_state(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None if there is none."""
    return torch.load(path, weights_only=True) if path.exists() else None


def save_half(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write floating tensors as fp16 safetensors."""
    half = {k: (t.half() if t.is_floating_point() else t).contiguous() for k, t in tensors.items()}
    replace_atomically(path, lambda p: save_file(half, p, metadata={"format": "pt"}))


@dataclass(frozen=True)
class Fit:
    """A resumable training loop: `loss_at(step)` is descended for `recipe.steps` steps."""

    name: str
    recipe: Recipe
    model: torch.nn.Module
    loss_at: Callable[[int], torch.Tensor]
    checkpoint: Path
    parameters: list[torch.nn.Parameter] | None = None  # trained ones; None for all
    clip_norm: float = math.inf
    report_every: int = 50
    save_every: int = 100

    def run(self) -> list[float]:
        """Train to the end, from the checkpoint where there is one; return the losses of this call's steps."""
        parameters = self.parameters if self.parameters is not None else list(self.model.parameters())
        optimizer = optimizer_of(iter(parameters), self.recipe.lr)
        losses: list[float] = []
        for step in range(self._resume(optimizer), self.recipe.steps):
            loss = self.loss_at(step)
            set_lr(optimizer, self.recipe.lr_at(step))
            loss.backward()
            if math.isfinite(self.clip_norm):
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            optimizer.step()
            self.model.zero_grad()
            losses.append(loss.item())
            report(self.name, step, self.recipe.steps, self.report_every, losses[-1])
            if (step + 1) % self.save_every == 0 or step + 1 == self.recipe.steps:
                self._save(optimizer, step + 1)
        return losses

    def _resume(self, optimizer: torch.optim.Optimizer) -> int:
        state = load_state(self.checkpoint)
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def _save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        save_state(self.checkpoint, model=self.model.state_dict(), optimizer=optimizer.state_dict(), step=step)


def report(part: str, step: int, steps: int, every: int, loss: float, **more: float) -> None:
    """Log a line every so many steps; a loss that is not finite ends the run."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"{part}: loss {loss} at step {step}")
    if step % every == 0 or step == steps - 1:
        extra = "".join(f" {name} {value:.4f}" for name, value in more.items())
        log.info("%s step %d/%d loss %.4f%s", part, step, steps, loss, extra)
