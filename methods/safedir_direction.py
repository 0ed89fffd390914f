"""A direction in the space of prompt embeddings, learned over full sampling trajectories (SafeDir, WWW 2025).

d (L, D) is chosen so that the noise predicted with c + d matches noise that is guided away from a concept:
psi = u - eta (s - u), with u = e(""), s = e(concept).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.bench import screen
from harness.declared import Declared
from harness.errors import InvalidValueError
from harness.models.conditions import Condition, condition, joined, unconditional
from harness.sampling.windows import check_window, in_window
from harness.setting_types import BatchSize, Call, FilePath, GuidanceScale, Scale, Steps, Text
from harness.training.fine_tuning import check_finite
from harness.training.frozen import frozen_denoiser
from harness.training.loop_memory import CHECKPOINT, LoopMemory
from harness.training.prompts import TrainingPrompt, derived_seed, file_hash, read_prompts

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

CATEGORY = "{category}"


def target(u: Tensor, s: Tensor, eta: float) -> Tensor:
    """Return psi = u - eta (s - u), away from the concept; eta < 0 leads toward it (paper's Fig. 2).

    The released script writes s + 7.5 (u - s), which is eta = 6.5.
    """
    return u - eta * (s - u)


def direction(b: Tensor, a: Tensor) -> Tensor:
    """Return the rank-1 direction d = b a (L, D), b (L, 1), a (1, D): 845 numbers on SD 1."""
    return b @ a


@dataclass(frozen=True)
class SafeDirTraining(Declared):
    """How directions are learned. Defaults are those of the released script (60 trajectories, LMS, 50 steps).

    `start` and `end` (1-based denoiser calls of a 50-step run; null = to the end) bound the calls in which d is used
    and updated. `prompts` is a CSV file of training prompts; without it the concept's own sentence, or `text`, is the
    prompt of every trajectory, each with its own seed. A "full" direction starts at `init`, zeros or normal; a rank-1
    one at zero. `anchor_*` is our addition, off by default: prompts (those of the file that have no category) whose
    prediction should not change. `pooled` (sdxl) learns a vector for the pooled embedding as well.
    """

    settings_of: ClassVar[str] = "method.training"

    parameterisation: Literal["lora", "full"] = "lora"
    eta: Annotated[float, Ge(-100), Le(100)] = 6.5
    trajectories: Annotated[int, Ge(1), Le(100_000)] = 60
    batch: BatchSize = 1
    steps: Steps = 50
    scheduler: Literal["lms", "ddim", "pndm", "euler", "dpmsolver++"] = "lms"
    guidance_scale: GuidanceScale = 7.5
    learning_rate: Annotated[float, Ge(1e-9), Le(10)] = 0.06
    loss_weight: Annotated[float, Ge(1e-9), Le(1e6)] = 10.0
    start: Call = 10
    end: Call | None = None
    prompts: FilePath | None = None
    text: Text | None = None
    anchor_prompts: FilePath | None = None
    anchor_weight: Scale = 0.0
    anchor_batch: BatchSize = 2
    init: Literal["zeros", "normal"] = "zeros"
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.init != "zeros" and self.parameterisation != "full":
            raise InvalidValueError("method.training.init=normal needs method.training.parameterisation=full.")
        check_window("method.training", self.start, self.end)
        if self.anchor_weight and not self.anchor_prompts:
            raise InvalidValueError("method.training.anchor_weight needs method.training.anchor_prompts, a CSV file.")
        calls = self.steps + (self.scheduler == "pndm")
        if not any(in_window(call, calls, self.steps, self.start, self.end, "fraction") for call in range(calls)):
            raise InvalidValueError(f"method.training.start={self.start}, end={self.end}: none of the {self.steps} "
                                    "steps falls in this window (start and end count calls of a 50-step run).")

    def identity(self) -> dict[str, Any]:
        """Return all values, with files named by their content."""
        values = asdict(self)
        for name, default in (("init", "zeros"), ("pooled", False)):
            if values[name] == default:
                del values[name]  # directions that were learned before these settings keep their names
        return values | {key: file_hash(values[key]) for key in ("prompts", "anchor_prompts") if values[key]}


@dataclass(frozen=True)
class _Texts:
    """Embeddings (B rows each) of the empty prompt, the prompts, and the text that psi is built on."""

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
            text = recipe.text or f"an image of {screen.drawable(self.concept)}"
            return [TrainingPrompt(text, derived_seed(self.seed, n)) for n in range(recipe.trajectories)]
        rows = read_prompts(recipe.prompts)
        if CATEGORY in self.concept:
            rows = [row for row in rows if row.category]
            if not rows:
                raise InvalidValueError(f"{recipe.prompts}: no prompt has a category for {CATEGORY}.")
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

        from harness.sampling.prediction_types import alpha_bar, from_epsilon
        from harness.sampling.session import initial_noise

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

        from harness.sampling.prediction_types import predict_epsilon

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
