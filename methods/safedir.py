"""SafeDir (WWW 2025): a direction, learned in the space of prompt embeddings, that moves every prompt to safety.

One tensor d (L, D) per concept is added to the conditional embedding; model weights stay as they are. It is learned
from the model's own implicit classifier: the noise predicted with c + d must match noise that is guided away from the
concept, psi = u - eta (s - u), with u = e(""), s = e(concept). On SDXL, D holds the channels of both encoders, and u is
the unconditional embedding that its pipeline guides with: zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from harness.conditions import Condition, condition, joined, unconditional
from harness.errors import IncompatibleError, InvalidValueError
from harness.finetune import check_finite
from harness.interruption import CHECKPOINT, LoopMemory
from harness.method import Artifact, EmbedBundle, Export, Method, Progress, StepContext, Trained, scaled_calls
from harness.settings import check_choice, check_file, check_integer, check_number, check_record, texts_of
from harness.training import (
    TrainingPrompt,
    derived_seed,
    file_hash,
    frozen_denoiser,
    missing_file,
    read_prompts,
)
from harness.weight_edits import UNETS, check_family, check_fit

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models import LoadedModel

CATEGORY = "{category}"

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


def target(u: Tensor, s: Tensor, eta: float) -> Tensor:
    """Return psi = u - eta (s - u), away from the concept; eta < 0 leads toward it (paper's Fig. 2).

    The released script writes s + 7.5 (u - s), which is eta = 6.5.
    """
    return u - eta * (s - u)


def direction(b: Tensor, a: Tensor) -> Tensor:
    """Return the rank-1 direction d = b a (L, D), b (L, 1), a (1, D): 845 numbers on SD 1."""
    return b @ a


@dataclass(frozen=True)
class SafeDirTraining:
    """How directions are learned. Defaults are those of the released script (60 trajectories, LMS, 50 steps).

    `start` and `end` (1-based denoiser calls of a 50-step run; null = to the end) bound the calls in which d is used
    and updated. `prompts` is a CSV file of training prompts; without it the concept's own sentence, or `text`, is the
    prompt of every trajectory, each with its own seed. A "full" direction starts at `init`, zeros or normal; a rank-1
    one at zero. `anchor_*` is our addition, off by default: prompts (those of the file that have no category) whose
    prediction shall not change. `pooled` (sdxl) learns a vector for the pooled embedding as well.
    """

    parameterisation: str = "lora"
    eta: float = 6.5
    trajectories: int = 60
    batch: int = 1
    steps: int = 50
    scheduler: str = "lms"
    guidance_scale: float = 7.5
    learning_rate: float = 0.06
    loss_weight: float = 10.0
    start: int = 10
    end: int | None = None
    prompts: str | None = None
    text: str | None = None
    anchor_prompts: str | None = None
    anchor_weight: float = 0.0
    anchor_batch: int = 2
    init: str = "zeros"
    pooled: bool = False

    def __post_init__(self) -> None:
        check_choice("method.training.parameterisation", self.parameterisation, ("lora", "full"))
        check_choice("method.training.scheduler", self.scheduler, ("lms", "ddim", "pndm", "euler", "dpmsolver++"))
        check_choice("method.training.init", self.init, ("zeros", "normal"))
        if self.init != "zeros" and self.parameterisation != "full":
            raise InvalidValueError("method.training.init=normal needs method.training.parameterisation=full.")
        for name, low, high in (("eta", -100, 100), ("guidance_scale", 1, 100), ("learning_rate", 1e-9, 10),
                                ("loss_weight", 1e-9, 1e6), ("anchor_weight", 0, 1e6)):
            object.__setattr__(self, name, check_number(f"method.training.{name}", getattr(self, name), low, high))
        for name, high in (("trajectories", 100_000), ("batch", 1024), ("steps", 1000), ("anchor_batch", 1024)):
            check_integer(f"method.training.{name}", getattr(self, name), 1, high)
        check_window("method.training", self.start, self.end)
        for name in ("prompts", "anchor_prompts"):
            check_file(f"method.training.{name}", getattr(self, name))
        if self.text is not None and not texts_of([self.text]):
            raise InvalidValueError(f"method.training.text={self.text!r}: a text, or null, is needed.")
        if not isinstance(self.pooled, bool):
            raise InvalidValueError(f"method.training.pooled={self.pooled}: true or false is needed.")
        if self.anchor_weight and not self.anchor_prompts:
            raise InvalidValueError("method.training.anchor_weight needs method.training.anchor_prompts, a CSV file.")
        calls = self.steps + (self.scheduler == "pndm")
        if not any(in_window(call, calls, self.steps, self.start, self.end, "fraction") for call in range(calls)):
            raise InvalidValueError(f"method.training.start={self.start}, end={self.end}: no call of {self.steps} "
                                    "steps is in this window, which counts calls of 50 steps.")

    def identity(self) -> dict[str, Any]:
        """Return all values, with files named by their content."""
        values = asdict(self)
        for name, default in (("init", "zeros"), ("pooled", False)):
            if values[name] == default:
                del values[name]  # directions that were learned before these settings keep their names
        return values | {key: file_hash(values[key]) for key in ("prompts", "anchor_prompts") if values[key]}


@dataclass(frozen=True)
class SafeDir(Method):
    """c' = c + strength d on the conditional row, in denoiser calls `start` to `end` (as for training).

    Several concepts make several directions. combine="sum" adds them all; combine="draw" gives each image one,
    chosen uniformly by the image's seed (the fair mode). "{category}" in a concept stands for the training prompt's
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
        return {"kind": self.kind, "version": self.version, "params": params}

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
        return torch.stack([scaled[self.draw(item.seed)] for item in ctx.items]).to(like.device)

    def draw(self, image_seed: int) -> int:
        """Return which direction an image gets in fair mode: a pure function of its seed."""
        return derived_seed("safedir-draw", self.seed, image_seed) % len(self.concepts)


def check_window(where: str, start: int, end: int | None) -> None:
    """Raise InvalidValueError unless 1 <= start <= end."""
    check_integer(f"{where}.start", start, 1, 1000)
    if end is not None:
        check_integer(f"{where}.end", end, start, 1000)


def in_window(call: int, n_calls: int, n_steps: int, start: int, end: int | None, window: str) -> bool:
    """Say whether 0-based `call` lies in the 1-based, inclusive window of a 50-step run."""
    first = scaled_calls(start - 1, n_steps, window)
    last = n_calls if end is None else scaled_calls(end, n_steps, window)
    return first <= call < last


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


@dataclass(frozen=True)
class _Texts:
    """What is told (B rows each) by no prompt, the prompts, and what psi is built on."""

    u: Condition
    c: Condition
    s: Condition


class DirectionTrainer:
    """Learns one direction: full sampling trajectories, one Adam step per denoising step."""

    def __init__(self, model: LoadedModel, recipe: SafeDirTraining, concept: str, seed: int) -> None:
        import torch

        self.model, self.recipe, self.concept, self.seed = model, recipe, concept, seed
        self.scheduler = model.scheduler(recipe.scheduler)
        self.updates = 0
        length, width = model.embed("").shape
        generator = torch.Generator().manual_seed(seed)
        if recipe.parameterisation == "lora":
            self.parameters = {"b": torch.zeros(length, 1), "a": torch.randn(1, width, generator=generator)}
        elif recipe.init == "normal":
            self.parameters = {"d": torch.randn(length, width, generator=generator)}
        else:
            self.parameters = {"d": torch.zeros(length, width)}
        pooled = model.pooled("") if recipe.pooled else None
        if pooled is not None:
            self.parameters["pool"] = torch.zeros(len(pooled))
        self.parameters = {key: value.to(model.device).requires_grad_() for key, value in self.parameters.items()}
        self.adam = torch.optim.Adam(list(self.parameters.values()), lr=recipe.learning_rate)

    def direction(self) -> Tensor:
        """Return d (L, D), with gradients."""
        full = self.parameters.get("d")
        return full if full is not None else direction(self.parameters["b"], self.parameters["a"])

    def moved(self, c: Condition) -> Condition:
        """Return c + d, with gradients."""
        pool = self.parameters.get("pool")
        pooled = c.pooled if c.pooled is None or pool is None else c.pooled + pool
        return Condition(c.embeds + self.direction(), pooled)

    def run(self, progress: Callable[[int, int], None], name: str = CHECKPOINT) -> list[float]:
        """Train through all trajectories; return the mean loss of each batch of them."""
        rows, size = self._prompts(), self.recipe.batch
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        memory = LoopMemory(self.model.training_folder, self.adam, self.parameters, name=name)
        with frozen_denoiser(self.model), memory:
            for index in memory.remaining(len(groups)):
                memory.begin()
                loss = self.trajectory(groups[index], self._anchors(index))
                memory.commit(memory.checked(loss, "a direction", "method.training.learning_rate"))
                memory.save()
                progress(index + 1, len(groups))
        return memory.losses

    def _prompts(self) -> list[TrainingPrompt]:
        """Return one prompt per trajectory; a file that is too short comes round again with new seeds."""
        recipe = self.recipe
        if recipe.prompts is None:
            text = recipe.text or f"an image of {self.concept}"
            return [TrainingPrompt(text, derived_seed(self.seed, n)) for n in range(recipe.trajectories)]
        rows = read_prompts(recipe.prompts)
        if CATEGORY in self.concept:
            rows = [row for row in rows if row.category]
            if not rows:
                raise InvalidValueError(f"{recipe.prompts}: no prompt has a category, which {CATEGORY} stands for.")
        rounds = [(n // len(rows), rows[n % len(rows)]) for n in range(recipe.trajectories)]
        return [replace(row, seed=derived_seed(self.seed, row.seed, n) if n else row.seed) for n, row in rounds]

    def _anchors(self, group: int) -> list[TrainingPrompt]:
        """Return the anchor prompts of a batch of trajectories."""
        recipe = self.recipe
        rows = read_prompts(recipe.anchor_prompts) if recipe.anchor_weight and recipe.anchor_prompts else []
        rows = [row for row in rows if not row.category]
        if recipe.anchor_weight and not rows:
            raise InvalidValueError(f"{recipe.anchor_prompts}: every prompt has a category, so none is an anchor.")
        count = recipe.anchor_batch if rows else 0
        picked = [(k, rows[k % len(rows)]) for k in range(group * count, (group + 1) * count)]
        return [replace(row, seed=derived_seed(self.seed, "anchor", row.seed, k)) for k, row in picked]

    def trajectory(self, prompts: list[TrainingPrompt], anchors: list[TrainingPrompt]) -> float:
        """Denoise a batch from noise to image, updating d on the way; return the mean loss."""
        import torch

        from harness.denoiser import alpha_bar, from_epsilon
        from harness.generate import initial_noise

        recipe, scheduler = self.recipe, self.scheduler
        texts = self._texts(prompts, anchors)
        noise, _ = initial_noise([row.seed for row in prompts + anchors], self._latent_shape())
        scheduler.set_timesteps(recipe.steps, device=self.model.device)
        z = noise.to(self.model.device) * scheduler.init_noise_sigma
        n_calls = len(scheduler.timesteps)
        losses = []
        for call, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(z, t)
            if in_window(call, n_calls, recipe.steps, recipe.start, recipe.end, "fraction"):
                u, s = self._predict(scaled, t, texts.u, texts.s)
                with torch.enable_grad():
                    (p,) = self._predict(scaled, t, self.moved(texts.c))
                    losses.append(self._update(p, u, s, len(prompts)))
            else:
                u, p = self._predict(scaled, t, texts.u, texts.c)
            abar = alpha_bar(scheduler, float(t))
            epsilon = u + recipe.guidance_scale * (p.detach() - u)
            z = scheduler.step(from_epsilon(epsilon, scaled, self.model.prediction_type, abar), t, z).prev_sample
        return sum(losses) / len(losses)

    def _texts(self, prompts: list[TrainingPrompt], anchors: list[TrainingPrompt]) -> _Texts:
        encode = partial(condition, self.model)
        c = encode([row.prompt for row in prompts + anchors])
        concepts = [self.concept.replace(CATEGORY, row.category) for row in prompts]
        s = encode(concepts + [row.prompt for row in anchors])
        return _Texts(u=unconditional(self.model, len(c)), c=c, s=s)

    def _predict(self, z: Tensor, t: Tensor, *texts: Condition) -> tuple[Tensor, ...]:
        """Return the noise predicted for each of `texts`; gradients only where there is one, which holds d."""
        import torch

        from harness.denoiser import predict_epsilon

        with torch.set_grad_enabled(len(texts) == 1):
            z = torch.cat([z] * len(texts))
            return predict_epsilon(self.model, self.scheduler, z, t, joined(*texts)).chunk(len(texts))

    def _latent_shape(self) -> tuple[int, int, int]:
        config = self.model.denoiser.config
        return config.in_channels, config.sample_size, config.sample_size

    def _update(self, p: Tensor, u: Tensor, s: Tensor, n: int) -> float:
        """Take one Adam step on 10 MSE(p, psi); anchor rows (from n on) hold p to their unedited prediction, s."""
        loss = (p[:n] - target(u[:n], s[:n], self.recipe.eta)).square().mean()
        if len(p) > n:
            loss = loss + self.recipe.anchor_weight * (p[n:] - s[n:]).square().mean()
        loss = self.recipe.loss_weight * loss
        value = check_finite(float(loss.detach()), f"the direction '{self.concept}'", self.updates)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.updates += 1
        return value
