"""SafeDir (WWW 2025): a direction, learned in the space of prompt embeddings, that moves every prompt to safety.

One tensor d (L, D) per concept is added to the conditional embedding; model weights stay as they are. It is learned
from the model's own implicit classifier: the noise predicted with c + d must match noise that is guided away from the
concept, psi = u - eta (s - u), with u = e(""), s = e(concept). On SDXL, D holds the channels of both encoders, and u is
the unconditional embedding that its pipeline guides with: zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from harness.embedding_direction import CATEGORY, DirectionTrainer, SafeDirTraining, check_window, direction, in_window
from harness.errors import IncompatibleError, InvalidValueError
from harness.interruption import CHECKPOINT
from harness.method import Artifact, EmbedBundle, Export, Method, Progress, StepContext, Trained, scaled_calls
from harness.records import ImageItem
from harness.settings import check_choice, check_integer, check_number, check_record, texts_of
from harness.training import derived_seed, missing_file
from harness.weight_edits import UNETS, check_family, check_fit

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models import LoadedModel

TRAINING_VERSION = 1  # of what is learned; `SafeDir.version` also counts changes of what is done with it

# Calls are counted from 1 in the release, and steps from 0 in the callback, which sees a step when it is done.
HOW_TO_USE = """\
steps, start = 50, {start}                            # added from this call of 50 on, 2 at least
directions = [load_file(name) for name in {files}]
d = sum(part["d"] if "d" in part else part["b"] @ part["a"] for part in directions)


def add_direction(pipe, step, t, tensors):     # to the conditional half of the batch
    if step == int((start - 1) * steps / 50 + 0.5) - 1:
        uncond, cond = tensors["prompt_embeds"].chunk(2)
        tensors["prompt_embeds"] = torch.cat([uncond, cond + d.to(cond)])
    return tensors


apply = {{"num_inference_steps": steps, "callback_on_step_end": add_direction,
         "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}}
# image = pipe("a prompt", **apply).images[0]
"""


@dataclass(frozen=True)
class SafeDir(Method):
    """c' = c + strength d on the conditional row, in denoiser calls `start` to `end` (as for training).

    Several concepts make several directions. combine="sum" adds them all; combine="draw" gives each image one,
    chosen uniformly by its prompt and seed (the fair mode). "{category}" in a concept stands for the training prompt's
    category, and prompts without one are left out. `on_edited` says what happens to the right of a method that edits
    weights: "retrain" learns the direction on the edited model, "transfer" takes the one of the bare model.
    """

    concept: str | Sequence[str]
    training: SafeDirTraining | Mapping[str, Any] = field(default_factory=SafeDirTraining)
    strength: float | Sequence[float] = 1.0
    start: int = 15
    end: int | None = None
    window: str = "fraction"
    combine: str = "sum"
    on_edited: str = "retrain"
    seed: int = 0
    name: str = "safedir"

    kind: ClassVar[str] = "safedir"
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        concepts = texts_of(self.concept)
        if not concepts:
            raise InvalidValueError(f"method.concept={self.concept!r}: a text, or a list of texts, is needed.")
        given = self.strength if isinstance(self.strength, (list, tuple)) else [self.strength] * len(concepts)
        if len(given) != len(concepts):
            raise InvalidValueError(f"method.strength has {len(given)} values for {len(concepts)} concepts.")
        object.__setattr__(self, "concept", concepts)
        object.__setattr__(self, "strength", tuple(check_number("method.strength", s, 0, 100) for s in given))
        object.__setattr__(self, "training", check_record("method.training", self.training, SafeDirTraining))
        check_window("method", self.start, self.end)
        if self.window == "fraction" and self.start > 50:
            raise InvalidValueError(f"method.start={self.start}: a share of the trajectory counts calls of 50 steps.")
        if not self.recipe.prompts and any(CATEGORY in text for text in concepts):
            raise InvalidValueError(f"method.concept={list(concepts)}: {CATEGORY} is that of a training prompt.",
                                    "Give method.training.prompts, a CSV file with a column category.")
        check_choice("method.window", self.window, ("calls", "fraction"))
        check_choice("method.combine", self.combine, ("sum", "draw"))
        check_choice("method.on_edited", self.on_edited, ("retrain", "transfer"))
        check_integer("method.seed", self.seed, 0, 2**64 - 1)

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self.concept)

    @property
    def recipe(self) -> SafeDirTraining:
        assert isinstance(self.training, SafeDirTraining)
        return self.training

    @property
    def strengths(self) -> tuple[float, ...]:
        assert isinstance(self.strength, tuple)
        return self.strength

    @property
    def trains(self) -> bool:
        return any(self.strengths)

    @property
    def trains_on_base(self) -> bool:
        return self.on_edited == "transfer"

    def params(self) -> dict[str, Any]:
        return super().params() | {"training": self.recipe.identity()}

    def training_identity(self) -> dict[str, Any]:
        params = {"concept": list(self.concepts), "training": self.recipe.identity(), "seed": self.seed}
        return {"kind": self.kind, "version": TRAINING_VERSION, "params": params}

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        renamed = tuple(map(rename, self.concepts))
        if len(set(renamed)) < len(set(self.concepts)):
            raise IncompatibleError(f"method {self.name} learns one direction for each of {len(renamed)} concepts, and "
                                    "several would be the same published word.",
                                    "Give one method.concept, or list in method.replaces which one the word replaces.")
        return replace(self, concept=renamed)

    def missing(self) -> str | None:
        files = [path for path in (self.recipe.prompts, self.recipe.anchor_prompts) if path]
        return next((problem for problem in map(missing_file, files) if problem), None)

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "a fixed-length CLIP text embedding", UNETS)
        if self.recipe.pooled and model_config.get("family") != "sdxl":
            raise IncompatibleError(f"method {self.name} can learn a pooled direction on sdxl only; model "
                                    f"{model_config.get('name')} has no pooled embedding.",
                                    "Say method.training.pooled=false.")

    def first_call(self, n_steps: int) -> int:
        return scaled_calls(self.start - 1, n_steps, self.window) if self.trains else 0

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        tensors: dict[str, Tensor] = {}
        losses: dict[str, list[float]] = {}
        for index, concept in enumerate(self.concepts):
            seed = derived_seed("safedir", self.seed, index)
            trainer = DirectionTrainer(model, self.recipe, concept, seed)
            losses[concept] = trainer.run(partial(progress, f"direction {concept}"), f"{CHECKPOINT}-{index}")
            tensors |= {f"{name}.{index}": value.detach() for name, value in trainer.parameters.items()}
        return Trained(tensors, {"losses": losses})

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if artifact is not None and any(self.strengths):
            length, width = model.embed("").shape
            pooled = model.pooled("") if self.recipe.pooled else None
            shapes: dict[str, tuple[int, ...]] = {"d": (length, width), "b": (length, 1), "a": (1, width)}
            if pooled is not None:
                shapes["pool"] = tuple(pooled.shape)
            check_fit(artifact.tensors, {f"{name}.{index}": shapes[name] for index in range(len(self.concepts))
                                         for name in parts(artifact, index) if name in shapes})
        return nullcontext()

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        concepts = artifact.meta["recipe"]["params"]["concept"]
        names = ["safe_direction"] if len(concepts) == 1 else [f"safe_direction_{n}" for n in range(len(concepts))]
        files = {f"{name}.safetensors": {part: artifact.tensors[f"{part}.{index}"] for part in parts(artifact, index)}
                 for index, name in enumerate(names)}
        return Export(files, HOW_TO_USE.format(files=list(files), start=cls.start))

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        if ctx.artifact is None:
            return bundle
        window = [in_window(call, ctx.n_calls, ctx.n_steps, self.start, self.end, self.window)
                  for call in range(ctx.n_calls)]
        if not any(window):
            raise IncompatibleError(f"method {self.name} acts from call {self.start} on, and {ctx.n_steps} steps have "
                                    "no call in its window.", "Say method.window=fraction, or a smaller method.start.")
        if not window[ctx.call]:
            return bundle
        if "shift" not in ctx.state:
            ctx.state["shift"] = self._shift(ctx, bundle.cond, stored_direction)
        cond = bundle.cond.float() + ctx.state["shift"]
        pooled = bundle.pooled_cond
        if self.recipe.pooled and pooled is not None:
            if "pool" not in ctx.state:
                ctx.state["pool"] = self._shift(ctx, pooled, stored_pool)
            pooled = (pooled.float() + ctx.state["pool"]).to(pooled.dtype)
        return replace(bundle, cond=cond.to(bundle.cond.dtype), pooled_cond=pooled)

    def _shift(self, ctx: StepContext, like: Tensor, stored: Callable[[Artifact, int], Tensor]) -> Tensor:
        """Return what is added to each image's embedding: (L, D), or (B, L, D) where each draws its own."""
        import torch

        assert ctx.artifact is not None
        scaled = [beta * stored(ctx.artifact, j) for j, beta in enumerate(self.strengths)]
        if self.combine == "sum":
            return torch.stack(scaled).sum(0).to(like.device)
        return torch.stack([scaled[self.draw(item)] for item in ctx.items]).to(like.device)

    def draw(self, item: ImageItem) -> int:
        """Return which direction an image gets in fair mode: by its prompt and its seed, which prompts may share."""
        return derived_seed("safedir-draw", self.seed, item.key.prompt_id, item.seed) % len(self.concepts)


def parts(artifact: Artifact, index: int) -> tuple[str, ...]:
    """Return what direction `index` of an artifact is stored as: d itself, or b and a; and of the pooled embedding."""
    own = ("d",) if f"d.{index}" in artifact.tensors else ("b", "a")
    return (*own, "pool") if f"pool.{index}" in artifact.tensors else own


def stored_direction(artifact: Artifact, index: int) -> Tensor:
    """Return direction `index` of an artifact, (L, D) float32, from either parameterisation."""
    tensors = artifact.tensors
    if f"d.{index}" in tensors:
        return tensors[f"d.{index}"]
    return direction(tensors[f"b.{index}"], tensors[f"a.{index}"])


def stored_pool(artifact: Artifact, index: int) -> Tensor:
    """Return what direction `index` of an artifact adds to the pooled embedding, (P,) float32."""
    return artifact.tensors[f"pool.{index}"]
