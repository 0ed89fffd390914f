"""InterpretDiffusion (Li et al., CVPR 2024): a concept is one tensor h, added to the U-Net's bottleneck at every step.

h is learned from the model's own images: drawn from `positive` (with `negative` as negative prompt), explained to the
frozen model as `neutral`, with mid += h making up for the difference. At inference it is added to the conditional row.
Constants are those of the released script: 1000 images of 30 steps, 2500 Adam steps of 8 at learning rate 0.1.
The script pads training texts to the longest of their batch; here they have 77 tokens, as at inference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.checks import for_each
from harness.declared import Declared, Values
from harness.errors import InvalidValueError
from harness.lib.weights import sha256_of
from harness.method import Artifact, Export, Method, Progress, Trained
from harness.records import ImageItem
from harness.setting_types import BatchSize, Each, FilePath, GuidanceScale, Images, Must, OneOrMore, Seed, Steps, Text
from harness.training.generated_images import TrainingImage, generate_images
from harness.training.loop_memory import CHECKPOINT
from harness.training.prompts import TrainingPrompt, derived_seed, file_hash, missing_prompts, read_prompts
from harness.training.published import checkpoint_path
from harness.training.weight_edits import UNETS, check_family, check_fit, check_guided
from methods.interpret_direction import (
    LatentDirectionTrainer,
    bottleneck_channels,
    bottleneck_edited,
    bottleneck_shape,
    encoded,
)
from methods.published_directions import NAMES, Columns, read_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


LOOKUP = "interpret.safetensors"
# The released MLP is one nn.Linear without bias, from a choice of concepts to their summed vector.
HOW_TO_USE = f"""\
chosen = [0]                                   # columns: {{columns}}
h = load_file("{LOOKUP}")["fc1.weight"][:, chosen].sum(1).view{{shape}}


def add_direction(module, inputs, output):     # to the conditional half of the batch
    only = torch.arange(len(output)).view(-1, 1, 1, 1) >= len(output) // 2
    return output + (only * h).to(output)


pipe.unet.mid_block.register_forward_hook(add_direction)
"""


@dataclass(frozen=True)
class Direction(Declared):
    """One vector and where its images come from: `positive`, or the training prompts (of `category`) where null.

    `neutral` null is the image's own prompt. Of the directions of one `group` an image draws one. `phrases` are what a
    prompt says to ask for it.
    """

    settings_of: ClassVar[str] = "method.directions"

    name: Text
    positive: Text | None = None
    neutral: Text | None = None
    negative: str = ""
    category: Text | None = None
    group: Text | None = None
    phrases: OneOrMore[Text] = ()

    def recipe(self) -> dict[str, Any]:
        """Return what its training depends on."""
        return {key: value for key, value in asdict(self).items() if key not in ("group", "phrases")}

    def asked_for(self, prompt: str) -> bool:
        """Say whether a prompt holds one of the phrases: whole words, in any case."""
        return any(re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", prompt, re.IGNORECASE) for phrase in self.phrases)


@dataclass(frozen=True)
class InterpretTraining(Declared):
    """How directions are learned; defaults as released. `prompts` is a CSV file for directions without `positive`."""

    settings_of: ClassVar[str] = "method.training"

    images: Images = 1000
    steps: Steps = 30
    guidance_scale: GuidanceScale = 7.5
    train_steps: Annotated[int, Ge(1), Le(10_000_000)] = 2500
    batch: BatchSize = 8
    learning_rate: Annotated[float, Ge(1e-9), Le(100)] = 0.1
    init: Annotated[float, Ge(0), Le(100)] = 0.1
    prompts: FilePath | None = None

    def identity(self) -> dict[str, Any]:
        """Return all values, the file named by its content."""
        return asdict(self) | ({"prompts": file_hash(self.prompts)} if self.prompts else {})


@dataclass(frozen=True)
class Interpret(Method):
    """mid += strength h on conditional rows, summed over the directions that an image gets.

    These are all that have no group, and one of each group: drawn by prompt and seed ("uniform"), or in turn over a
    prompt's repeats ("exhaustive", which fixes the shares, as the released evaluation does). With `by_prompt` only
    directions that the prompt asks for count. `checkpoint` names a published table of vectors, used in the place of
    training: each direction is the column of its name, by `columns` or the release's concept_dict.json.
    """

    directions: Annotated[tuple[Direction, ...], Must("a list of directions", "directions", bool)]
    training: InterpretTraining = field(default_factory=InterpretTraining)
    strength: Each[Annotated[float, Ge(-100), Le(100)]] = 1.0
    sampling: Literal["uniform", "exhaustive"] = "uniform"
    by_prompt: bool = False
    checkpoint: FilePath | None = None
    columns: Columns | None = None
    seed: Seed = 0
    name: str = "interpret"

    kind: ClassVar[str] = "interpret"
    version: ClassVar[int] = 2

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Give every direction its strength."""
        count = len(values["directions"])
        return values | {"strength": for_each("method.strength", values["strength"], count, "directions")}

    def __post_init__(self) -> None:
        names = [direction.name for direction in self.directions]
        if len(set(names)) < len(names):
            raise InvalidValueError(f"method.directions: duplicate name in {', '.join(names)}.")
        for direction in self.directions:
            if direction.positive is None and not self.training.prompts and not self.checkpoint:
                raise InvalidValueError(f"method.directions.{direction.name} needs `positive`, or "
                                        "method.training.prompts, a CSV file.")
            if self.by_prompt and not direction.phrases:
                raise InvalidValueError(f"method.directions.{direction.name} has no phrases for prompts to ask for it.")

    @property
    def reads_prompts(self) -> bool:  # type: ignore[override]
        return self.by_prompt

    @property
    def vectors(self) -> tuple[Direction, ...]:
        return self.directions

    @property
    def recipe(self) -> InterpretTraining:
        return self.training

    @property
    def strengths(self) -> tuple[float, ...]:
        assert isinstance(self.strength, tuple)
        return self.strength

    @property
    def trains(self) -> bool:
        return any(self.strengths) and not self.checkpoint

    def params(self) -> dict[str, Any]:
        directions = [asdict(direction) | {"phrases": list(direction.phrases)} for direction in self.vectors]
        values = super().params() | {"directions": directions, "training": self.recipe.identity()}
        published = values.pop("checkpoint"), values.pop("columns")
        if published[0] is None:
            return values  # cells from before these settings keep their names
        used = [{key: one[key] for key in ("name", "group", "phrases")} for one in directions]
        del values["training"]
        columns = self.columns and dict(self.columns)
        return values | {"directions": used, "checkpoint": sha256_of(self._file) or "absent", "columns": columns,
                         "names": None if columns else sha256_of(self._file.parent / NAMES)}

    @property
    def _file(self) -> Path:
        return checkpoint_path(str(self.checkpoint))

    def training_identity(self) -> dict[str, Any]:
        directions = [direction.recipe() for direction in self.vectors]
        params = {"directions": directions, "training": self.recipe.identity(), "seed": self.seed}
        return {"kind": self.kind, "version": self.version, "params": params}

    def missing(self) -> str | None:
        if self.checkpoint:
            return None if self._file.is_file() else f"the vectors {self._file} of method {self.name} are missing."
        return missing_prompts(self.recipe.prompts) if self.recipe.prompts and self.trains else None

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "a U-Net with a bottleneck", UNETS)
        if self.trains:
            check_guided(self.name, self.recipe.guidance_scale)
        channels = bottleneck_channels(model_config) if self.checkpoint and not self.missing() else None
        if channels:
            self._published(channels)

    def _published(self, channels: int) -> list[Tensor]:
        names = [direction.name for direction in self.vectors]
        vectors = read_vectors(self._file, self.columns or {}, names, channels)
        return [vectors[name] for name in names]

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        tensors: dict[str, Tensor] = {}
        losses: dict[str, list[float]] = {}
        recipe = self.recipe
        for index, direction in enumerate(self.vectors):
            rows = self.rows_of(direction)
            seed = derived_seed("interpret", self.seed, direction.name)
            wanted = [TrainingImage(row.prompt, derived_seed(seed, n), direction.negative)
                      for n, row in enumerate(rows)]
            images = generate_images(model, wanted, recipe.steps, recipe.guidance_scale,
                                     partial(progress, f"images for {direction.name}"))
            texts = [direction.neutral or row.prompt for row in rows]
            trainer = LatentDirectionTrainer(model, encoded(model, images), texts, seed, recipe.learning_rate,
                                             recipe.init)
            losses[direction.name] = trainer.run(recipe.train_steps, recipe.batch,
                                                 partial(progress, f"direction {direction.name}"),
                                                 f"{CHECKPOINT}-{index}")
            tensors[f"h.{index}"] = trainer.h.detach()
        norms = {direction.name: float(tensors[f"h.{i}"].norm()) for i, direction in enumerate(self.vectors)}
        return Trained(tensors, {"losses": losses, "norms": norms})

    def rows_of(self, direction: Direction) -> list[TrainingPrompt]:
        """Return the prompt of each training image; a file that is too short comes round again."""
        if direction.positive is not None:
            return [TrainingPrompt(direction.positive, 0)] * self.recipe.images
        rows = [row for row in read_prompts(str(self.recipe.prompts))
                if direction.category is None or row.category == direction.category]
        if not rows:
            raise InvalidValueError(f"{self.recipe.prompts} has no prompt with category {direction.category}.")
        return [rows[n % len(rows)] for n in range(self.recipe.images)]

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not any(self.strengths) or (artifact is None and not self.checkpoint):
            return nullcontext()
        import torch

        if artifact is None:
            directions = torch.cat(self._published(bottleneck_shape(model)[0])).to(model.device)
            return bottleneck_edited(model, lambda output: self._edit(model, directions, output))
        size = next((value.shape[-2:] for value in artifact.tensors.values()), ())  # of any size: it is scaled
        check_fit(artifact.tensors, {f"h.{index}": (bottleneck_shape(model)[0], *size)
                                     for index in range(len(self.vectors))})
        h = torch.stack([artifact.tensors[f"h.{index}"] for index in range(len(self.vectors))]).to(model.device)
        return bottleneck_edited(model, lambda output: self._edit(model, h, output))

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        import torch

        names = [direction["name"] for direction in artifact.meta["recipe"]["params"]["directions"]]
        h = torch.stack([artifact.tensors[f"h.{index}"] for index in range(len(names))])
        columns = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        return Export({LOOKUP: {"fc1.weight": h.flatten(1).T}},
                      HOW_TO_USE.format(columns=columns, shape=tuple(h.shape[1:])))

    def _edit(self, model: LoadedModel, h: Tensor, output: Tensor) -> Tensor | None:
        """Add to each conditional row what its image gets; None where that is nothing."""
        import torch

        where = [row for row, role in enumerate(model.roles) if role == "cond"]
        given = torch.tensor([self.scales(item) for item in model.items])
        if not where or not given.any():
            return None
        h = h.float()
        if h.shape[-2:] != output.shape[-2:]:
            h = torch.nn.functional.interpolate(h, output.shape[-2:], mode="bilinear", align_corners=False)
        shift = torch.einsum("bk,kchw->bchw", given.to(h), h)
        edited = output.clone()
        edited[where] = (output[where].float() + shift).to(output.dtype)
        return edited

    def scales(self, item: ImageItem) -> list[float]:
        """Return the strength of each direction for an image, 0 for those that it does not get."""
        asked = [i for i, direction in enumerate(self.vectors)
                 if not self.by_prompt or direction.asked_for(item.prompt)]
        chosen = {i for i in asked if self.vectors[i].group is None}
        for group in sorted({self.vectors[i].group or "" for i in asked} - {""}):
            members = [i for i in asked if self.vectors[i].group == group]
            chosen.add(members[self.draw(item, group, len(members))])
        return [strength if i in chosen else 0.0 for i, strength in enumerate(self.strengths)]

    def draw(self, item: ImageItem, group: str, count: int) -> int:
        """Return which of a group's directions an image gets."""
        if self.sampling == "uniform":
            return derived_seed("interpret-draw", self.seed, group, item.key.prompt_id, item.seed) % count
        return (derived_seed("interpret-turn", self.seed, group, item.key.prompt_id) + item.key.repeat) % count
