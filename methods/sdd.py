"""Safe self-Distillation (Kim et al., 2023): the noise under a concept becomes the model's own unconditional noise.

The student learns e(z_t, c_s) = sg e(z_t, c0). Its exponential moving average, the teacher, draws the latents z_t and
is the result. Released code: train_sdd.py. Three faults of it are mended here: after k = 0 steps its sampling loop
never breaks, so 2 % of the iterations train on a finished latent with t near 1000 (here: on the noise itself);
`sequential` always takes the first concept (here: one after the other); buffers are not copied to the teacher (a U-Net
of Stable Diffusion has none). Its default guidance of 1.0 draws unconditional latents, here guidance_scale 0; its
README says 3, as does the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from harness.method import Artifact, Progress, Trained
from harness.models.conditions import unconditional
from harness.setting_types import GuidanceScale, Iterations, Steps, Texts, WeightDecay
from harness.training.fine_tuning import (
    FineTuned,
    GradNorm,
    ParameterSet,
    PartialDenoising,
    WorkingCopy,
    draw_noise,
    draw_stop,
    embed,
    optimise,
)
from harness.training.frozen import frozen_denoiser
from harness.training.loop_memory import Carried
from harness.training.prompts import check_drawable, derived_seed
from methods.parameter_sets import PARAMETER_SETS

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel


def target(u: Tensor) -> Tensor:
    """Return sg e(z_t, c0): the model's own unconditional noise. ESD's target at ng = 1."""
    return u.detach()


@dataclass(frozen=True)
class ConceptPair:
    """`removed` is distilled (c_s), `sampled` draws the latents (c_p)."""

    removed: str
    sampled: str


@dataclass(frozen=True, kw_only=True)
class SDD(FineTuned):
    """Remove `concept`, one text or several at once.

    `roles`: "script" draws latents with the joined text and distils one concept at a time; "pseudo_code" (README)
    the other way round. `order` picks that one: iterative, random, sequential; composite uses the joined text for
    both. `timesteps`: uniform, or beta (Beta(3, 3), as HFI trains it). `guidance_scale` 0: unconditional latents.
    """

    concept: Texts
    roles: Literal["script", "pseudo_code"] = "script"
    order: Literal["iterative", "random", "sequential", "composite"] = "iterative"
    timesteps: Literal["uniform", "beta"] = "uniform"
    steps: Steps = 50
    guidance_scale: GuidanceScale = 3.0
    ema_decay: Annotated[float, Ge(0), Le(0.999999)] = 0.999
    iterations: Iterations = 1500
    weight_decay: WeightDecay = 1e-4
    max_grad_norm: GradNorm | None = 1.0
    name: str = "sdd"

    kind: ClassVar[str] = "sdd"
    parameter_sets: ClassVar[Mapping[str, ParameterSet]] = PARAMETER_SETS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drawable("method.concept", self.concept)

    def pair(self, step: int, draw: Callable[[int], int]) -> ConceptPair:
        """Return the concepts of an iteration; `draw(n)` gives a random index below n."""
        joined, count = ", ".join(self.concept), len(self.concept)
        if self.order == "composite":
            return ConceptPair(joined, joined)
        index = {"iterative": step % count, "sequential": step * count // self.iterations}.get(self.order)
        one = self.concept[draw(count) if index is None else index]
        return ConceptPair(one, joined) if self.roles == "script" else ConceptPair(joined, one)

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        import torch

        generator = torch.Generator().manual_seed(derived_seed("sdd", self.seed))
        with frozen_denoiser(model):
            names = self.parameter_names(model.denoiser)
            student, teacher = WorkingCopy(model, names), WorkingCopy(model, names)
            losses = optimise(student, self, lambda step: self._loss(model, student, teacher, step, generator),
                              progress, lambda: teacher.follow(student, self.ema_decay),
                              Carried(generator, {f"teacher.{name}": teacher.parameters[name] for name in names}))
        return Trained(teacher.deltas(), {"losses": losses})

    def _loss(self, model: LoadedModel, student: WorkingCopy, teacher: WorkingCopy, step: int, generator: Generator
              ) -> Tensor:
        import torch

        pair = self.pair(step, lambda count: int(torch.randint(count, (1,), generator=generator)))
        c_s, c_p = (embed(model, text, self.batch) for text in (pair.removed, pair.sampled))
        c_0 = unconditional(model, self.batch)
        scheduler = model.scheduler("ddim")
        stop = draw_stop(generator, self.steps, scheduler.config.num_train_timesteps, self.timesteps)
        noise = draw_noise(model, self.batch, generator)
        z = PartialDenoising(scheduler, self.steps, self.guidance_scale).run(teacher.denoise, noise, c_p, c_0,
                                                                             stop.calls)
        t = torch.tensor(stop.t, device=z.device)
        with torch.no_grad():
            u = student.denoise(z, t, c_0)
        return (student.denoise(z, t, c_s) - target(u)).square().mean()
