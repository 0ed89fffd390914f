"""SEGA (Brack et al., NeurIPS 2023): add or, reversed, take away concepts where their guidance is strongest.

Follows the released code, which diffusers ships as SemanticStableDiffusionPipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.checks import for_each
from harness.declared import Values
from harness.errors import IncompatibleError
from harness.method import ExtraRow, Method, StepContext, scaled_calls
from harness.setting_types import Calls, Each, Scale, Texts, UnitInterval, Window
from harness.training.weight_edits import GUIDED, check_family

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "sega"
_COLUMNS = ("concept", "reverse", "scale", "warmup", "cooldown", "threshold", "weights")  # in the order of Edit


def edit_guidance(e: Tensor, u: Tensor, S_e: float, tau: float, is_reversed: bool) -> Tensor:
    """SEGA eqs. 4 to 6: S_e (e - u), negated if reversed, where its magnitude reaches its tau-quantile, else 0.

    The quantile is taken over the pixels of each image (B, C, H, W) and channel.
    """
    import torch

    g = (-S_e if is_reversed else S_e) * (e - u)
    q = torch.quantile(g.abs().flatten(2), tau, dim=2)
    return g * (g.abs() >= q[:, :, None, None])


def averaged(gs: Sequence[Tensor], weights: Sequence[float]) -> Tensor | float:
    """Return the weighted mean of what is past its warm-up while other concepts are not; 0 where no weight is left.

    The released code divides by zero there, when every such concept has cooled down, and makes the image NaN.
    """
    total = sum(weights)
    return sum((g * (weight / total) for g, weight in zip(gs, weights, strict=True)), 0.0) if total else 0.0


def momentum(nu: Tensor | float, G: Tensor | float, beta: float) -> Tensor | float:
    """SEGA eq. 8: nu' = beta nu + (1 - beta) G, with the G of eq. 7 that holds the previous scaled momentum."""
    return beta * nu + (1 - beta) * G


@dataclass(frozen=True)
class SEGA(Method):
    """One extra row per image and concept; its term is added to the noise as it is, not multiplied by w.

    Every setting of a concept is one value for all, or a list. `warmup` and `cooldown` (null: never) count denoiser
    calls of a 50-step run; `window` says whether fewer steps keep the count ("calls", as the released pipeline) or the
    share ("fraction"). Momentum builds up during warm-up. scale 0 switches a method off.
    """

    concept: Texts
    reverse: Each[bool] = True
    scale: Each[Scale] = 5.0
    warmup: Each[Calls] = 10
    cooldown: Each[Calls | None] = None
    threshold: Each[UnitInterval] = 0.9
    weights: Each[Scale] = 1.0
    momentum_scale: UnitInterval = 0.1
    momentum_beta: UnitInterval = 0.4
    window: Window = "fraction"
    name: str = "sega"

    kind: ClassVar[str] = "sega"
    needs_guidance: ClassVar[bool] = True

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Give every concept its own value of each setting."""
        count = len(values["concept"])
        return values | {name: for_each(f"method.{name}", values[name], count, "concepts") for name in _COLUMNS[1:]}

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Return the settings of each concept."""
        return tuple(Edit(*values) for values in zip(*(getattr(self, name) for name in _COLUMNS), strict=True))

    @property
    def is_off(self) -> bool:
        return not any(edit.scale for edit in self.edits)

    @property
    def denoiser_rows(self) -> int:
        return 0 if self.is_off else len(self.edits)

    def first_call(self, n_steps: int) -> int:
        return 0 if self.is_off else min(scaled_calls(edit.warmup, n_steps, self.window) for edit in self.edits)

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        edits = list(dict.fromkeys(replace(edit, concept=rename(edit.concept)) for edit in self.edits))
        if len({edit.concept for edit in edits}) < len(edits):
            raise IncompatibleError(f"method {self.name} has different settings for concepts that would be one "
                                    "published word.", "Set a single method.concept.")
        columns: dict[str, Any] = dict(zip(_COLUMNS, zip(*map(astuple, edits), strict=True), strict=True))
        return replace(self, **columns)

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "classifier-free guidance", GUIDED)

    def rows(self, ctx: StepContext) -> Sequence[ExtraRow]:
        if self.is_off:
            return ()
        return [ExtraRow(f"{ROLE}:{edit.concept}", ctx.model.embed(edit.concept), ctx.model.pooled(edit.concept))
                for edit in self.edits]

    def guide(self, ctx: StepContext, preds: Mapping[str, Tensor], delta: Tensor) -> Tensor:
        if self.is_off:
            return delta
        cooled = [self._passed(ctx, edit.cooldown) for edit in self.edits]
        warm = [self._passed(ctx, edit.warmup) for edit in self.edits]
        gs = [0 * delta if off else edit_guidance(preds[f"{ROLE}:{edit.concept}"], preds["uncond"], edit.scale,
                                                  edit.threshold, edit.reverse)
              for edit, off in zip(self.edits, cooled, strict=True)]  # fmt: skip
        weights = [0.0 if off else edit.weight for edit, off in zip(self.edits, cooled, strict=True)]
        nu = ctx.state.get("nu", 0.0)
        G = sum(g * weight for g, weight in zip(gs, weights, strict=True)) + self.momentum_scale * nu
        ctx.state["nu"] = momentum(nu, G, self.momentum_beta)
        if all(warm):
            return delta + G / ctx.w
        if not any(warm):
            return delta
        kept = [index for index, done in enumerate(warm) if done]
        return delta + averaged([gs[k] for k in kept], [weights[k] for k in kept]) / ctx.w

    def _passed(self, ctx: StepContext, calls: int | None) -> bool:
        return calls is not None and ctx.call >= scaled_calls(calls, ctx.n_steps, self.window)


@dataclass(frozen=True)
class Edit:
    """One concept with its settings."""

    concept: str
    reverse: bool
    scale: float
    warmup: int
    cooldown: int | None
    threshold: float
    weight: float
