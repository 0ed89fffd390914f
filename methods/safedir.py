"""SafeDir (WWW 2025): a direction, learned in the space of prompt embeddings, that moves every prompt to safety.

One tensor d (L, D) per concept is added to the conditional embedding; model weights stay as they are. It is learned
from the model's own implicit classifier: the noise predicted with c + d must match noise that is guided away from the
concept, psi = u - eta (s - u), with u = e(""), s = e(concept). On SDXL, D holds the channels of both encoders, and u is
the unconditional embedding that its pipeline guides with: zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.bench import screen
from harness.checks import for_each
from harness.declared import Values
from harness.errors import IncompatibleError, InvalidValueError, unknown_name
from harness.lib.weights import sha256_of
from harness.method import Artifact, EmbedBundle, Export, Method, Progress, StepContext, Trained, scaled_calls
from harness.models.text_encoder_identity import text_shape
from harness.records import ImageItem
from harness.sampling.windows import check_window, in_window
from harness.setting_types import Call, Each, Seed, Texts, Window
from harness.training.loop_memory import CHECKPOINT
from harness.training.prompts import derived_seed, missing_prompts
from harness.training.published import checkpoint_path
from harness.training.weight_edits import UNETS, check_family, check_fit, check_guided
from methods.published_directions import direction_shape, read_direction
from methods.safedir_direction import CATEGORY, DirectionTrainer, SafeDirTraining, direction

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

TRAINING_VERSION = 1  # of what is learned; `SafeDir.version` also counts changes of what is done with it

# Calls are counted from 1 in the release, and steps from 0 in the callback, which sees a step when it is done.
HOW_TO_USE = """\
steps, start, end = 50, {start}, {end}          # added in these calls of {counted}; end None: to the last one
strengths = {strengths}
directions = [load_file(name) for name in {files}]
directions = [part["d"] if "d" in part else part["b"] @ part["a"] for part in directions]   # (1, L, D)
{combined}
kept = {{}}


def counted_call(call):                        # the call of a run of this many steps, from 0
    return {scaled}


def add_direction(pipe, step, t, tensors):     # to the conditional half of the batch
    uncond, cond = tensors["prompt_embeds"].chunk(2)
    if step == counted_call(start - 1) - 1:
        kept["cond"] = cond
        tensors["prompt_embeds"] = torch.cat([uncond, cond + d.to(cond)])
    elif end is not None and step == counted_call(end) - 1:
        tensors["prompt_embeds"] = torch.cat([uncond, kept["cond"]])
    return tensors


apply = {{"num_inference_steps": steps, "callback_on_step_end": add_direction,
         "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}}
# image = pipe("a prompt", **apply).images[0]
# The authors' code reads torch files: torch.save(load_file(name), "safe-direction.pth")
"""
_APPLIED = ("start", "end", "window", "combine", "strength")  # settings of how a direction is applied
SUM = "d = sum(strength * part for strength, part in zip(strengths, directions))"
DRAW = """\
chosen = 0                                     # which direction: draw it anew for each image, all alike, such as
                                               # random.randrange(len(directions))
d = strengths[chosen] * directions[chosen]"""


@dataclass(frozen=True)
class SafeDir(Method):
    """c' = c + strength d on the conditional row, in denoiser calls `start` to `end` (as for training).

    Several concepts make several directions. combine="sum" adds them all; combine="draw" gives each image one,
    chosen uniformly by its prompt and seed (the fair mode). "{category}" in a concept stands for the training prompt's
    category, and prompts without one are left out. `on_edited` says what happens to the right of a method that edits
    weights: "retrain" learns the direction on the edited model, "transfer" takes the one of the bare model.
    `on_model` "transfer" takes a given artifact (artifact=<folder>) that was learned on another model of the same text
    encoder; on SDXL it moves the channels of the first encoder. `checkpoint` names published directions, one file
    each, in the place of training: safetensors or torch files with b (1, L, 1) and a (1, 1, D).
    """

    concept: Texts
    training: SafeDirTraining = field(default_factory=SafeDirTraining)
    strength: Each[Annotated[float, Ge(0), Le(100)]] = 1.0
    start: Call = 15
    end: Call | None = None
    window: Window = "fraction"
    combine: Literal["sum", "draw"] = "sum"
    on_edited: Literal["retrain", "transfer"] = "retrain"
    on_model: Literal["own", "transfer"] = "own"
    checkpoint: Texts | None = None
    seed: Seed = 0
    name: str = "safedir"

    kind: ClassVar[str] = "safedir"
    of_text_encoder: ClassVar[bool] = True
    if_trained_on_base: ClassVar[str | None] = "Set method.on_edited=retrain."
    version: ClassVar[int] = 2

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Give every direction its strength."""
        what = "checkpoint" if values["checkpoint"] else "concept"
        return values | {"strength": for_each("method.strength", values["strength"], len(values[what]), f"{what}s")}

    def __post_init__(self) -> None:
        check_window("method", self.start, self.end)
        if self.window == "fraction" and self.start > 50:
            raise InvalidValueError(f"method.start={self.start}: a share of the trajectory counts calls of 50 steps.")
        if not self.training.prompts and any(CATEGORY in text for text in self.concept):
            raise InvalidValueError(f"method.concept={list(self.concept)}: {CATEGORY} is that of a training prompt.",
                                    "Set method.training.prompts, a CSV file with a column category.")

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self.concept)

    @property
    def files(self) -> tuple[Path, ...]:
        """Where published directions are; none where the direction is learned."""
        return tuple(checkpoint_path(source) for source in self.checkpoint or ())

    @property
    def count(self) -> int:
        """How many directions there are."""
        return len(self.checkpoint or self.concepts)

    @property
    def recipe(self) -> SafeDirTraining:
        return self.training

    @property
    def strengths(self) -> tuple[float, ...]:
        assert isinstance(self.strength, tuple)
        return self.strength

    @property
    def trains(self) -> bool:
        return any(self.strengths) and not self.checkpoint

    @property
    def trains_on_base(self) -> bool:
        return self.on_edited == "transfer"

    @property
    def transfers(self) -> bool:
        return self.on_model == "transfer"

    def params(self) -> dict[str, Any]:
        values = super().params() | {"training": self.recipe.identity(), **self._drawn()}
        if self.on_model == "own":
            del values["on_model"]  # cells from before this setting keep their names
        if self.checkpoint is None:
            del values["checkpoint"]
            return values
        learned = ("concept", "training", "drawn", "on_edited", "seed" if self.combine == "sum" else "")
        values = {key: value for key, value in values.items() if key not in learned}
        return values | {"checkpoint": [sha256_of(file) or "absent" for file in self.files]}

    def training_identity(self) -> dict[str, Any]:
        params = {"concept": list(self.concepts), "training": self.recipe.identity(), "seed": self.seed}
        return {"kind": self.kind, "version": TRAINING_VERSION, "params": params | self._drawn()}

    def _drawn(self) -> dict[str, list[str]]:
        """Return the texts that training draws, where they are not the concepts: no term that names an age is drawn."""
        drawn = [screen.drawable(text) for text in self.concepts]
        as_given = self.recipe.prompts or self.recipe.text or drawn == list(self.concepts)
        return {} if as_given else {"drawn": drawn}

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        renamed = tuple(map(rename, self.concepts))
        if len(set(renamed)) < len(set(self.concepts)):
            raise IncompatibleError(f"method {self.name} learns one direction for each of {len(renamed)} concepts, and "
                                    "several would be the same published word.",
                                    "Set a single method.concept, or list in method.replaces which one to replace.")
        return replace(self, concept=renamed)

    def missing(self) -> str | None:
        if self.checkpoint:
            absent = next((file for file in self.files if not file.is_file()), None)
            return f"the direction {absent} of method {self.name} is missing." if absent else None
        files = [path for path in (self.recipe.prompts, self.recipe.anchor_prompts) if path]
        return next((problem for problem in map(missing_prompts, files) if problem), None)

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "a fixed-length CLIP text embedding", UNETS)
        if self.trains:
            check_guided(self.name, self.recipe.guidance_scale)
        if self.recipe.pooled and model_config.get("family") != "sdxl":
            raise IncompatibleError(f"method {self.name} can learn a pooled direction only on sdxl; model "
                                    f"{model_config.get('name')} has no pooled embedding.",
                                    "Set method.training.pooled=false.")
        shape = text_shape(model_config) if self.checkpoint and not self.missing() else None
        for file in self.files if shape else ():
            self._check_shape(str(file), direction_shape(read_direction(file)), shape or (0, 0))

    def _check_shape(self, what: str, given: tuple[int, int], model: tuple[int, int]) -> None:
        """Raise IncompatibleError unless a direction (L, D) fits text embeddings of `model` (L, D)."""
        if given == model or (self.transfers and given[0] == model[0] and given[1] < model[1]):
            return
        is_narrower = given[1] < model[1]
        hint = "On SDXL it fits the first text encoder: set method.on_model=transfer." if is_narrower else None
        raise IncompatibleError(f"{what} is a direction of {given[0]} x {given[1]} numbers, but text embeddings of "
                                f"this model have {model[0]} x {model[1]}.", hint)

    def first_call(self, n_steps: int) -> int:
        return scaled_calls(self.start - 1, n_steps, self.window) if any(self.strengths) else 0

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
        if not any(self.strengths):
            return nullcontext()
        length, width = model.embed("").shape
        if self.checkpoint:
            tensors = {f"{name}.{index}": value for index, file in enumerate(self.files)
                       for name, value in read_direction(file).items()}
        elif artifact is not None:
            tensors = dict(artifact.tensors)
        else:
            return nullcontext()
        self._check_fit(tensors, model, (length, width))
        return self._holding({name: _widened(name, value, width) for name, value in tensors.items()})

    @contextmanager
    def _holding(self, directions: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold directions as they fit the model that is attached; leaving forgets them."""
        self.__dict__["_directions"] = directions
        try:
            yield
        finally:
            self.__dict__.pop("_directions", None)

    def _check_fit(self, tensors: Mapping[str, Tensor], model: LoadedModel, shape: tuple[int, int]) -> None:
        length, width = shape
        pooled = model.pooled("") if self.recipe.pooled else None
        shapes: dict[str, tuple[int, ...]] = {"d": (length, width), "b": (length, 1), "a": (1, width)}
        if pooled is not None:
            shapes["pool"] = tuple(pooled.shape)
        for index in range(self.count):
            learned = {name: tensors[f"{name}.{index}"] for name in ("d", "b", "a") if f"{name}.{index}" in tensors}
            is_complete = "d" in learned or len(learned) == 2
            if is_complete and all(value.dim() == 2 for value in learned.values()):
                self._check_shape(f"direction {index + 1} of method {self.name}", direction_shape(learned), shape)
                size = direction_shape(learned)[1]
                shapes |= {"d": (length, size), "a": (1, size)}
        check_fit(tensors, {f"{name}.{index}": shapes[name] for index in range(self.count)
                            for name in parts(tensors, index) if name in shapes})

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        settings = _exported_settings(artifact)
        names = ["safe_direction"]
        if len(settings["concept"]) > 1:
            names = [f"safe_direction_{n}" for n in range(len(settings["concept"]))]
        files = {f"{name}.safetensors": {part: artifact.tensors[f"{part}.{index}"][None]
                                         for part in parts(artifact.tensors, index)}
                 for index, name in enumerate(names)}
        shares = settings["window"] == "fraction"
        return Export(files, HOW_TO_USE.format(
            files=list(files), start=settings["start"], end=settings["end"], strengths=list(settings["strength"]),
            combined=SUM if settings["combine"] == "sum" else DRAW, counted="50" if shares else "any number",
            scaled="int(call * steps / 50 + 0.5)" if shares else "call"))

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        if self.__dict__.get("_directions") is None:
            return bundle
        window = [in_window(call, ctx.n_calls, ctx.n_steps, self.start, self.end, self.window)
                  for call in range(ctx.n_calls)]
        if not any(window):
            raise IncompatibleError(f"method {self.name} acts from call {self.start} on, and {ctx.n_steps} steps have "
                                    "no call in its window.", "Set method.window=fraction, or a smaller method.start.")
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

    def _shift(self, ctx: StepContext, like: Tensor, stored: Callable[[Mapping[str, Tensor], int], Tensor]) -> Tensor:
        """Return what is added to each image's embedding: (L, D), or (B, L, D) where each draws its own."""
        import torch

        scaled = [beta * stored(self.__dict__["_directions"], j) for j, beta in enumerate(self.strengths)]
        if self.combine == "sum":
            return torch.stack(scaled).sum(0).to(like.device)
        return torch.stack([scaled[self.draw(item)] for item in ctx.items]).to(like.device)

    def draw(self, item: ImageItem) -> int:
        """Return which direction an image gets in fair mode: by its prompt and its seed, which prompts may share."""
        return derived_seed("safedir-draw", self.seed, item.key.prompt_id, item.seed) % self.count


def _exported_settings(artifact: Artifact) -> dict[str, Any]:
    """Return how the method applies an artifact: as it was first used, or as the export command says.

    Raises IncompatibleError for several directions whose use is not recorded, and for a window that a callback of
    diffusers' pipelines, which is called after a step, cannot open.
    """
    concepts = artifact.meta["recipe"]["params"]["concept"]
    recorded = artifact.meta.get("settings") or {}
    if not recorded and len(concepts) > 1:
        raise IncompatibleError(f"artifact {artifact.key} has {len(concepts)} directions and does not say whether they "
                                "are summed or drawn.", "Set method.combine=sum or method.combine=draw.")
    for key in recorded:
        if key not in {f.name for f in fields(SafeDir)}:
            raise unknown_name("setting of safedir", str(key), _APPLIED)
    named = [f"direction {n + 1}" for n in range(len(concepts))]
    used = SafeDir(tuple(named), **{key: recorded[key] for key in _APPLIED if key in recorded})
    if used.start < 2:
        raise IncompatibleError(f"artifact {artifact.key} starts at call 1, which a pipeline callback does not "
                                "reach.", "Set method.start=2, or add the direction to prompt_embeds.")
    return {key: getattr(used, key) for key in ("concept", *_APPLIED)}


def _widened(name: str, value: Tensor, width: int) -> Tensor:
    """Return d or a with zeros for the channels of further text encoders, which it does not move; others as they are.
    """
    import torch

    if name[0] not in "da" or value.shape[-1] == width:
        return value
    return torch.nn.functional.pad(value, (0, width - value.shape[-1]))


def parts(tensors: Mapping[str, Tensor], index: int) -> tuple[str, ...]:
    """Return what direction `index` is stored as: d itself, or b and a; and of the pooled embedding."""
    names = ("d",) if f"d.{index}" in tensors else ("b", "a")
    return (*names, "pool") if f"pool.{index}" in tensors else names


def stored_direction(tensors: Mapping[str, Tensor], index: int) -> Tensor:
    """Return direction `index` of an artifact, (L, D) float32, from either parameterisation."""
    if f"d.{index}" in tensors:
        return tensors[f"d.{index}"]
    return direction(tensors[f"b.{index}"], tensors[f"a.{index}"])


def stored_pool(tensors: Mapping[str, Tensor], index: int) -> Tensor:
    """Return what direction `index` of an artifact adds to the pooled embedding, (P,) float32."""
    return tensors[f"pool.{index}"]
