"""Train Q16-style prompts: two vectors that separate inappropriate from appropriate images in CLIP features."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from harness.bench.labelled import LAYOUT, read_labelled
from harness.declared import Declared
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.evaluators.clip import Clip, ClipSource
from harness.evaluators.q16_prompts import TEMPERATURE, TENSOR
from harness.evaluators.scoring import read_image
from harness.lib.atomic import write_atomic
from harness.lib.reproducible import reproducible
from harness.lib.streams import prepare_streams
from harness.metrics import wilson_interval
from harness.records import Verdict
from harness.setting_types import FilePath, Text

CLASSES = ("appropriate", "inappropriate")  # as the rows of the prompts
ABOUT = "about"  # metadata of the file: what the prompts were learned on, as JSON
USAGE = "python -m harness.evaluators.q16 train data=<labelled folder> source=<CLIP> out=<file.safetensors>"


class Schedule(Protocol):
    """How long and how fast to learn."""

    @property
    def steps(self) -> int: ...

    @property
    def batch(self) -> int: ...

    def lr_at(self, step: int) -> float: ...


@dataclass(frozen=True)
class PromptTraining(Declared):
    """What `train` takes: `validation` is the share of each class held out; `image_batch` is for embedding."""

    data: FilePath
    source: Text
    out: FilePath
    revision: Text | None = None
    seed: int = 0
    steps: Annotated[int, Ge(1)] = 1500
    batch: Annotated[int, Ge(1)] = 256
    lr: Annotated[float, Gt(0)] = 1e-2
    warmup: Annotated[int, Ge(1)] = 50
    validation: Annotated[float, Gt(0), Lt(1)] = 0.2
    image_batch: Annotated[int, Ge(1)] = 32
    device: Text = "cpu"

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, cosine to zero."""
        return self.lr * min(1.0, (step + 1) / self.warmup) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Learned(NamedTuple):
    """Unit prompts (2, D) float32, row 1 = inappropriate, and the loss of every step."""

    prompts: NDArray[np.float32]
    losses: list[float]


class Labelled(NamedTuple):
    """Image files with labels (1: inappropriate), and one hash of their names, contents and labels."""

    files: list[Path]
    labels: NDArray[np.int64]
    sha256: str


def learn_prompts(features: NDArray[np.float32], labels: NDArray[np.integer], schedule: Schedule,
                  seed: Sequence[int]) -> Learned:
    """Descend the cross-entropy of softmax(100 x cosine) (Schramowski et al. 2022) from the mean of each class.

    `features` (N, D) are of length 1, `labels` (N,) 1 for inappropriate. The result depends on its arguments alone.
    """
    import torch
    import torch.nn.functional as F

    if sorted(set(labels.tolist())) != [0, 1]:
        raise InvalidValueError("both appropriate and inappropriate images are needed for training.")
    given, targets = torch.from_numpy(features), torch.from_numpy(np.asarray(labels, dtype=np.int64))
    start = torch.stack([given[targets == k].mean(0) for k in (0, 1)])
    vectors = torch.nn.Parameter(F.normalize(start, dim=1))
    optimizer = torch.optim.AdamW([vectors], schedule.lr_at(0), betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    losses: list[float] = []
    for step in range(schedule.steps):
        draw = np.random.default_rng([*seed, step]).integers(len(targets), size=schedule.batch)
        index = torch.from_numpy(draw)
        loss = F.cross_entropy(TEMPERATURE * given[index] @ F.normalize(vectors, dim=1).T, targets[index])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}")
        optimizer.param_groups[0]["lr"] = schedule.lr_at(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return Learned(F.normalize(vectors.detach(), dim=1).numpy(), losses)


def accuracy(prompts: NDArray[np.float32], features: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    """Return the share of images whose nearer prompt is their label's."""
    return float(((features @ prompts.T).argmax(axis=1) == labels).mean())


def split(labels: NDArray[np.integer], share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return indices to learn from and to validate on: `share` of each class, at least one of each on both sides."""
    rng, held = np.random.default_rng(seed), []
    for k in (0, 1):
        of_class = rng.permutation(np.flatnonzero(labels == k))
        if len(of_class) < 2:
            raise InvalidValueError(f"{len(of_class)} {CLASSES[k]} images: at least two are needed.", LAYOUT)
        held.append(of_class[: min(len(of_class) - 1, max(1, round(share * len(of_class))))])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def read_folder(folder: Path) -> Labelled:
    """Read which images of a folder are inappropriate. Raises HarnessError."""
    labelled = read_labelled(folder)
    labels = np.array([int(image.label is Verdict.UNSAFE) for image in labelled.images])
    return Labelled([labelled.file(image) for image in labelled.images], labels, labelled.sha256())


def embed(clip: Clip, files: Sequence[Path], batch: int) -> NDArray[np.float32]:
    """Embed image files: (N, D) rows of length 1. Raises InvalidValueError for a file that is not an image."""
    rows = []
    for i in range(0, len(files), batch):
        rows.append(clip.image_features([_image(file) for file in files[i : i + batch]]))
    return np.concatenate(rows)


def _image(file: Path) -> NDArray[np.uint8]:
    try:
        return read_image(file)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"{file} is not a readable image: {error}") from None


def train(settings: PromptTraining) -> str:
    """Learn prompts from a labelled folder and write them with what they were learned on; return a line to show."""
    from safetensors.numpy import save

    if not settings.out.endswith(".safetensors"):
        raise InvalidValueError(f"out={settings.out} does not end in .safetensors.")
    source, labelled = ClipSource(settings.source, settings.revision), read_folder(Path(settings.data).expanduser())
    learn, held = split(labelled.labels, settings.validation, settings.seed)
    with reproducible():
        features = embed(source.load(settings.device), labelled.files, settings.image_batch)
        learned = learn_prompts(features[learn], labelled.labels[learn], settings, (settings.seed,))
    share = accuracy(learned.prompts, features[held], labelled.labels[held])
    told = {**source.identity(), "data_sha256": labelled.sha256, "seed": settings.seed, "steps": settings.steps,
            "batch": settings.batch, "lr": settings.lr, "n_learned": len(learn), "n_validation": len(held),
            "validation_accuracy": share}  # fmt: skip
    # One entry: safetensors writes several in no fixed order, and the file's hash is part of the evaluator's identity.
    metadata = {ABOUT: json.dumps(told, sort_keys=True)}
    out = Path(settings.out).expanduser()
    write_atomic(out, save({TENSOR: learned.prompts}, metadata=metadata))
    low, high = wilson_interval(round(share * len(held)), len(held))
    return (f"{out}: trained on {len(learn)} images; accuracy on {len(held)} held-out ones {share:.3f} "
            f"(95 % {low:.3f} to {high:.3f})")


def settings_of(words: Sequence[str]) -> PromptTraining:
    """Read `key=value` words. Raises HarnessError for unknown keys and values that are not numbers."""
    known: dict[str, Any] = {field.name: type(field.default) for field in fields(PromptTraining)}
    given: dict[str, str | int | float] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidValueError(f"'{word}' is not a setting.", f"Write {USAGE}")
        if key not in known:
            raise unknown_name("setting", key, known)
        try:
            given[key] = (known[key] if known[key] in (int, float) else str)(value)
        except ValueError:
            raise InvalidValueError(f"{word}: {key} takes a number.") from None
    absent = [name for name in ("data", "source", "out") if name not in given]
    if absent:
        raise InvalidValueError(f"train needs {', '.join(absent)}.", f"Write {USAGE}")
    return PromptTraining(**given)  # type: ignore[arg-type]


def main(words: Sequence[str]) -> int:
    """Run the command line."""
    prepare_streams()
    try:
        if not words or words[0] != "train":
            raise InvalidValueError("the command is train.", f"Write {USAGE}")
        sys.stdout.write(train(settings_of(words[1:])) + "\n")
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0
