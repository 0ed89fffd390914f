"""Safe Latent Diffusion (Schramowski et al., CVPR 2023): steer away from a concept where the prompt leans to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from harness.method import ExtraRow, Method, StepContext, scaled_calls
from harness.setting_types import Calls, Scale, Text, UnitInterval, Window
from harness.training.weight_edits import GUIDED, check_family

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "safety"


def safety_scale(p: Tensor, s: Tensor, s_S: float, lam: float) -> Tensor:
    """SLD eq. 6: mu = min(1, |p - s| s_S) where p - s < lambda, else 0; signed, element-wise.

    The paper prints max(1, ...); the authors' code clamps to at most 1.
    """
    phi = p - s
    return (phi.abs() * s_S).clamp(max=1.0).masked_fill(phi >= lam, 0.0)


def safety_guidance(mu: Tensor, s: Tensor, u: Tensor, s_m: float, nu: Tensor | float) -> Tensor:
    """SLD eqs. 5 and 7: gamma = mu (s - u) + s_m nu."""
    return (s - u) * mu + s_m * nu


def momentum(nu: Tensor | float, gamma: Tensor, beta_m: float) -> Tensor:
    """SLD eq. 8: nu' = beta_m nu + (1 - beta_m) gamma."""
    return beta_m * nu + (1 - beta_m) * gamma


@dataclass(frozen=True)
class SLD(Method):
    """One extra row per image, conditioned on `concept`; momentum builds up during warm-up as well.

    `warmup` counts denoiser calls of a 50-step run; `window` says whether fewer steps keep the count ("calls", as the
    released pipeline does) or the share ("fraction"). `scale` <= 1 switches it off, as in diffusers. Its numbers were
    tuned to SD 1's latents, not to SDXL's.
    """

    concept: Text
    warmup: Calls
    scale: Scale
    threshold: Annotated[float, Ge(-100), Le(100)]
    momentum_scale: UnitInterval
    momentum_beta: UnitInterval
    window: Window = "fraction"
    name: str = "sld"

    kind: ClassVar[str] = "sld"
    needs_guidance: ClassVar[bool] = True

    @property
    def denoiser_rows(self) -> int:
        return 1 if self.scale > 1 else 0

    def first_call(self, n_steps: int) -> int:
        return scaled_calls(self.warmup, n_steps, self.window) if self.scale > 1 else 0

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "classifier-free guidance", GUIDED)

    def rows(self, ctx: StepContext) -> Sequence[ExtraRow]:
        if self.scale <= 1:
            return ()
        return [ExtraRow(ROLE, ctx.model.embed(self.concept), ctx.model.pooled(self.concept))]

    def guide(self, ctx: StepContext, preds: Mapping[str, Tensor], delta: Tensor) -> Tensor:
        if self.scale <= 1:
            return delta
        u, p, s = preds["uncond"], preds["cond"], preds[ROLE]
        nu = ctx.state.get("nu", 0.0)
        gamma = safety_guidance(safety_scale(p, s, self.scale, self.threshold), s, u, self.momentum_scale, nu)
        ctx.state["nu"] = momentum(nu, gamma, self.momentum_beta)
        return delta - gamma if ctx.call >= scaled_calls(self.warmup, ctx.n_steps, self.window) else delta
