"""Erased Stable Diffusion (Gandikota et al., ICCV 2023): fine-tune the denoiser to steer itself off a concept.

Under the concept's own prompt the edited model learns the noise that the frozen one predicts when guided away. Paper
and first release: u - eta (s - u). Current release: p - ng (s - u), with p = e(what to erase from), which is s unless
told otherwise: then eta = ng - 1. At ng = 1 the target is u, which is SDD's. u = e(""), also on SDXL, where latents are
drawn, as by the stock pipeline, from zeroed unconditional embeddings (esd_sdxl.py does both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from annotated_types import Ge, Le

from harness.declared import Values
from harness.errors import InvalidValueError
from harness.method import Artifact, Progress, Trained
from harness.models.conditions import Condition, unconditional
from harness.setting_types import GuidanceOn, Iterations, LearningRate, OneOf, Steps, Text, Texts, WeightDecay
from harness.training.fine_tuning import (
    FineTuned,
    ParameterSet,
    PartialDenoising,
    Stop,
    WorkingCopy,
    draw_noise,
    draw_stop,
    embed,
    frozen_denoise,
    optimise,
)
from harness.training.frozen import frozen_denoiser
from harness.training.loop_memory import Carried
from harness.training.prompts import check_drawable, derived_seed
from methods.parameter_sets import PARAMETER_SETS

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

# The published recipes; a value given in the config goes before the preset's. Adam is AdamW without decay.
PRESETS: dict[str, dict[str, Any]] = {
    # Paper and the checkpoints ESD-x1, ESD-u1: latents from the model that is being edited, eta 1. Latents are at the
    # timestep that is trained, as in the paper. The first release's loop (ldm/models/diffusion/ddim.py, till_T) leaves
    # out the noisiest step and stops where the latent is two bins of 20 timesteps cleaner, and after k = 0 not at all.
    "esd_orig": {"iterations": 1000, "learning_rate": 1e-5, "weight_decay": 0.0, "negative_guidance": 2.0,
                 "sampler": "edited", "scheduler": "ddim", "timestep": "bin"},
    # esd_sd.py of the current release: latents from the frozen model, at the scheduler's own timesteps. There they are
    # 1024 pixels wide and the optimiser runs in bfloat16, where updates get lost; here the model's size and float32.
    "esd_repo_sd": {"iterations": 200, "learning_rate": 5e-5, "weight_decay": 0.0, "negative_guidance": 2.0,
                    "sampler": "base", "scheduler": "pndm", "timestep": "grid"},
    # esd_sdxl.py of the current release, for cross-attention (other sets: learning rate 1e-5), with guidance_scale 2,
    # which is to be said beside the preset. There the latents are Euler's and reach the U-Net unscaled.
    "esd_repo_sdxl": {"iterations": 200, "learning_rate": 2e-4, "weight_decay": 0.0, "negative_guidance": 1.0,
                      "sampler": "base", "scheduler": "ddim", "timestep": "grid"},
    # train_esd.py of SDD's repository, which SDD's tables call ESD-x-3 and ESD-u-3: eta 3. Its sampling loop
    # never breaks after k = 0 steps, as SDD's own (methods/sdd.py): mended here.
    "esd_sdd3": {"iterations": 1000, "learning_rate": 1e-5, "weight_decay": 1e-4, "negative_guidance": 4.0,
                 "sampler": "edited", "scheduler": "ddim", "timestep": "bin", "max_grad_norm": 1.0},
}  # fmt: skip


def target(p: Tensor, s: Tensor, u: Tensor, ng: float) -> Tensor:
    """Return p - ng (s - u), of the current release; with p = s this is the paper's u - eta (s - u), eta = ng - 1."""
    return p - ng * (s - u)


@dataclass(frozen=True, kw_only=True)
class ESD(FineTuned):
    """Erase `concept`; of several, each iteration draws one. What is null is as `preset` says.

    `erase_from` names what the concept is taken out of ("hat" from "cowboy"); null: the concept itself. `sampler` says
    who makes the latents. `timestep`: "bin" trains anywhere in the reached bin, "grid" at the scheduler's timestep.
    """

    concept: Texts
    preset: Annotated[str, OneOf(tuple(PRESETS))] = "esd_orig"
    erase_from: Text | None = None
    negative_guidance: Annotated[float, Ge(-100), Le(100)] | None = None
    iterations: Iterations | None = None  # type: ignore[assignment]
    learning_rate: LearningRate | None = None  # type: ignore[assignment]
    weight_decay: WeightDecay | None = None  # type: ignore[assignment]
    sampler: Literal["edited", "base"] | None = None
    scheduler: Literal["ddim", "pndm"] | None = None
    timestep: Literal["bin", "grid"] | None = None
    steps: Steps = 50
    guidance_scale: GuidanceOn = 3.0
    name: str = "esd"

    kind: ClassVar[str] = "esd"
    parameter_sets: ClassVar[Mapping[str, ParameterSet]] = PARAMETER_SETS

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Take what is null from the preset."""
        return values | {name: value for name, value in PRESETS[values["preset"]].items() if values[name] is None}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drawable("method.concept", self.concept)
        if self.scheduler == "pndm" and self.timestep == "bin":
            raise InvalidValueError("method.timestep=bin: PNDM takes its second timestep twice, so its latents are one "
                                    "bin behind.", "Set method.timestep=grid, or method.scheduler=ddim.")

    def params(self) -> dict[str, Any]:
        return {key: value for key, value in super().params().items() if key != "preset"}  # its values are all there

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        import torch

        generator = torch.Generator().manual_seed(derived_seed("esd", self.seed))
        with frozen_denoiser(model):
            copy = WorkingCopy(model, self.parameter_names(model.denoiser))
            losses = optimise(copy, self, partial(self._loss, model, copy, generator), progress,
                              carried=Carried(generator))
        return Trained(copy.deltas(), {"losses": losses})

    def _loss(self, model: LoadedModel, copy: WorkingCopy, generator: Generator, step: int) -> Tensor:
        concept = self.concept[_draw(len(self.concept), generator)]
        s, u = embed(model, concept, self.batch), embed(model, "", self.batch)
        p = s if self.erase_from is None else embed(model, self.erase_from, self.batch)
        base = frozen_denoise(model)
        z, t = self._latents(model, copy.denoise if self.sampler == "edited" else base, p, generator)
        with_s, without = base(z, t, s), base(z, t, u)
        with_p = with_s if p is s else base(z, t, p)
        goal = target(with_p, with_s, without, cast(float, self.negative_guidance))
        return (copy.denoise(z, t, p) - goal).square().mean()

    def _latents(self, model: LoadedModel, denoise: Any, p: Condition, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return latents (B, C, H, W) of the prompt that is trained on, part of the way, and their timestep."""
        import torch

        scheduler = model.scheduler(self.scheduler)
        stop: Stop = draw_stop(generator, self.steps, scheduler.config.num_train_timesteps)
        noise = draw_noise(model, self.batch, generator)
        u = unconditional(model, self.batch)
        z = PartialDenoising(scheduler, self.steps, self.guidance_scale).run(denoise, noise, p, u, stop.calls)
        t = int(scheduler.timesteps[stop.calls]) if self.timestep == "grid" else stop.t
        return z, torch.tensor(t, device=z.device)


def _draw(count: int, generator: Generator) -> int:
    import torch

    return int(torch.randint(count, (1,), generator=generator))
