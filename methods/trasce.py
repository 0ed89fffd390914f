"""TraSCE (Jain et al., 2024, arXiv 2412.07658): another form of negative prompt, and a gradient that steers latents.

Of the paper's abstract: it needs "a specific formulation of negative prompting instead of the widely used one" and a
"localized loss-based guidance". The formulas are those of the authors' script (generate_images_concept_erasure.py):

    eps = u + w (p - s)    where the usual negative prompt has s + w (p - s)
    J = -a exp(-|p - s| / sigma),    z <- z - b dJ/dz    before the scheduler's step, which keeps eps of the old z

Inferred or unchecked: the paper's own kernel is said to be squared (`kernel`), which was not verified. As scripted the
step goes down J and so brings p and s together, where eps nears u; a negative `step_size` drives them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.errors import IncompatibleError
from harness.method import Artifact, EmbedBundle, ExtraRow, Method, StepContext
from harness.models.conditions import Condition, encoded_condition, joined, told
from harness.setting_types import BatchSize, Scale, Text
from harness.training.weight_edits import GUIDED, check_family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

ROLE = "trasce"
GRADIENT_SCALE = 1024.0  # a power of two: exact, and keeps half-precision gradients above the subnormal range
_SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")


def loss_slope(D: Tensor, a: float, sigma: float, kernel: str) -> Tensor:
    """Return dJ/dD at distance D = |p - s| (B,), of J = -a exp(-D / sigma), or "squared": -a exp(-D^2 / sigma)."""
    if kernel == "squared":
        return a * 2 * D / sigma * (-D.square() / sigma).exp()
    return a / sigma * (-D / sigma).exp()


def replaced(delta: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Return the direction with s for u: p - s, from delta = p - u."""
    return delta - (s - u)


def _no_unipc(name: str) -> str:
    return f"method {name} moves the latents before a step, but UniPC's corrector overwrites them."


@dataclass(frozen=True)
class Distances:
    """Per image: s (B, C, H, W) the prediction under the concept, D (B,) = |p - s|, and its gradient by the input z."""

    s: Tensor
    D: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class TraSCE(Method):
    """Steer latents by `step_size` b along the gradient of a loss of `loss_scale` a, and guide along p - s.

    Either scale 0 leaves the latents alone; `negative` false leaves the direction alone. The gradient takes two more
    rows per image, forward and backward, of `gradient_batch` images at a time; `checkpointing` trades time for memory.
    p has the embeddings as methods to the left leave them. The second call of PNDM's doubled timestep and of each of
    Heun's steps starts from the sampler's own earlier latents, so that call's gradient is lost; so would all be that
    UniPC's corrector writes over, which is refused.
    """

    concept: Text
    loss_scale: Scale = 1.5
    step_size: Annotated[float, Ge(-1e6), Le(1e6)] = 1.0
    sigma: Annotated[float, Ge(1e-6), Le(1e6)] = 2.0
    kernel: Literal["norm", "squared"] = "norm"
    negative: bool = True
    gradient_batch: BatchSize = 4
    checkpointing: bool = False
    name: str = "trasce"

    kind: ClassVar[str] = "trasce"
    needs_guidance: ClassVar[bool] = True

    @property
    def steers(self) -> bool:
        return bool(self.loss_scale and self.step_size)

    @property
    def denoiser_rows(self) -> int:
        """Return what a call costs: two rows forward and, at about the same price, backward."""
        return 4 if self.steers else int(self.negative)

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        name = model_config.get("name")
        check_family(self.name, model_config, "classifier-free guidance", GUIDED)
        if self.steers and model_config.get("scheduler") == "unipc":
            raise IncompatibleError(_no_unipc(self.name), "Set model.scheduler=ddim.")
        if self.steers and model_config.get("compile"):
            raise IncompatibleError(f"method {self.name} needs gradients, and model {name} is compiled for inference.",
                                    "Set model.compile=false.")

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> Any:
        if self.steers and type(model.pipe.scheduler).__name__.startswith("UniPC"):
            raise IncompatibleError(_no_unipc(self.name), "Set model.scheduler=ddim.")
        return steerable(model, self.checkpointing) if self.steers else super().attach(model, artifact)

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        ctx.state["cond"] = Condition(bundle.cond, bundle.pooled_cond)
        return bundle

    def rows(self, ctx: StepContext) -> list[ExtraRow]:
        if not self.negative or self.steers:
            return []
        return [ExtraRow(ROLE, ctx.model.embed(self.concept), ctx.model.pooled(self.concept))]

    def guide(self, ctx: StepContext, preds: Mapping[str, Tensor], delta: Tensor) -> Tensor:
        if not self.steers:
            return replaced(delta, preds[ROLE], preds["uncond"]) if self.negative else delta
        distances = self.distances(ctx)
        slope = loss_slope(distances.D, self.loss_scale, self.sigma, self.kernel).view(-1, 1, 1, 1)
        shifts(ctx.model)[self.name] = -self.step_size * slope * distances.gradient / input_scale(ctx)
        return replaced(delta, distances.s, preds["uncond"]) if self.negative else delta

    def distances(self, ctx: StepContext) -> Distances:
        """Differentiate |p - s| by the denoiser's input, a few images at a time."""
        import torch

        size, cond = self.gradient_batch, told(ctx.state["cond"])
        concept = encoded_condition(ctx.model, [self.concept])
        parts = [distance(ctx, slice(k, k + size), cond, concept) for k in range(0, len(cond), size)]
        return Distances(*(torch.cat(column) for column in zip(*((p.s, p.D, p.gradient) for p in parts), strict=True)))


def distance(ctx: StepContext, part: slice, cond: Condition | Tensor, concept: Condition | Tensor) -> Distances:
    """Run the denoiser with gradients on the `part` of a batch told `cond` (B, L, D); `concept` is one row.

    D is differentiated, not J: exp(-D / sigma) is far below what half precision holds.
    """
    import torch

    from harness.sampling.prediction_types import predict_epsilon

    model, z = ctx.model, ctx.z[part]
    scheduler, roles, items, n = model.pipe.scheduler, model.roles, model.items, len(z)
    model.roles, model.items = ("cond",) * n + (ROLE,) * n, tuple(ctx.items[part])
    try:
        with torch.enable_grad():
            z = z.detach().float().requires_grad_()
            texts = joined(told(cond)[part], one_row(concept).repeated(n))
            p, s = predict_epsilon(model, scheduler, torch.cat([z, z]), ctx.t, texts).chunk(2)
            D = torch.linalg.vector_norm((p - s).flatten(1), dim=1)
            (gradient,) = torch.autograd.grad(GRADIENT_SCALE * D.sum(), z)
    finally:
        model.roles, model.items = roles, items
    return Distances(s.detach(), D.detach(), gradient / GRADIENT_SCALE)


def one_row(concept: Condition | Tensor) -> Condition:
    """Return a concept's condition with its batch dimension."""
    row = told(concept)
    return row if row.embeds.ndim == 3 else row.each(lambda value: value[None])


def input_scale(ctx: StepContext) -> float:
    """Return d z / d latents: 1 / sqrt(1 + sigma^2) for schedulers whose latents grow with sigma, 1 for others.

    A step is made in the denoiser's input, so that it weighs as much under every scheduler.
    """
    import torch

    scale = getattr(ctx.model.pipe.scheduler, "scale_model_input", None)  # flow matching has none
    return 1.0 if scale is None else float(scale(torch.ones(1), ctx.t))


def shifts(model: LoadedModel) -> dict[str, Tensor]:
    """Return what the scheduler's next step adds to the latents, by method."""
    kept: dict[str, Tensor] | None = getattr(model.pipe.scheduler.step, "shifts", None)
    if kept is None:
        raise RuntimeError("the scheduler was changed while a method that steers latents was attached")
    return kept


@contextmanager
def steerable(model: LoadedModel, checkpointing: bool) -> Iterator[None]:
    """Let the scheduler's step start from shifted latents, and the denoiser give gradients to its input only."""
    scheduler, denoiser = model.pipe.scheduler, model.denoiser
    step, wanted = scheduler.__dict__.get("step"), [(p, p.requires_grad) for p in denoiser.parameters()]
    switches = [(m, {key: m.__dict__[key] for key in _SWITCHES if key in m.__dict__}) for m in denoiser.modules()]
    scheduler.step = shifted_step(scheduler.step)
    denoiser.requires_grad_(False)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for module, values in switches:
            for key in _SWITCHES:
                module.__dict__.pop(key, None)
            module.__dict__.update(values)
        for parameter, grad in wanted:
            parameter.requires_grad_(grad)
        if step is None:
            del scheduler.step
        else:
            scheduler.step = step


def shifted_step(step: Any) -> Any:
    """Wrap a scheduler's step; its signature stays, since pipelines look at it."""
    pending: dict[str, Tensor] = {}

    @wraps(step)
    def shifted(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        for shift in pending.values():
            sample = sample + shift.to(sample.dtype)
        pending.clear()
        return step(model_output, timestep, sample, *args, **kwargs)

    shifted.shifts = pending  # type: ignore[attr-defined]
    return shifted
