"""SEGA (Brack et al., NeurIPS 2023): add or, reversed, take away concepts where their guidance is strongest.

Follows the released code, which diffusers ships as SemanticStableDiffusionPipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from harness.checks import check_choice, check_integer, check_number, texts_of
from harness.errors import IncompatibleError, InvalidValueError
from harness.method import ExtraRow, Method, StepContext, scaled_calls
from harness.training.weight_edits import GUIDED, check_family

if TYPE_CHECKING:
    from torch import Tensor

ROLE = "sega"
_COLUMNS = ("concept", "reverse", "scale", "warmup", "cooldown", "threshold", "weights")  # in the order of Edit
_RANGES = {"scale": (0, 1e6), "threshold": (0, 1), "weights": (0, 1e6)}


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

    concept: str | Sequence[str]
    reverse: bool | Sequence[bool] = True
    scale: float | Sequence[float] = 5.0
    warmup: int | Sequence[int] = 10
    cooldown: int | Sequence[int | None] | None = None
    threshold: float | Sequence[float] = 0.9
    weights: float | Sequence[float] = 1.0
    momentum_scale: float = 0.1
    momentum_beta: float = 0.4
    window: str = "fraction"
    name: str = "sega"

    kind: ClassVar[str] = "sega"
    needs_guidance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        concepts = texts_of(self.concept)
        if not concepts:
            raise InvalidValueError(f"method.concept={self.concept!r}: a text, or a list of texts, is needed.")
        object.__setattr__(self, "concept", concepts)
        for setting in ("reverse", "scale", "warmup", "cooldown", "threshold", "weights"):
            values = _spread(setting, getattr(self, setting), len(concepts))
            object.__setattr__(self, setting, tuple(_checked(setting, value) for value in values))
        for setting in ("momentum_scale", "momentum_beta"):
            value = check_number(f"method.{setting}", getattr(self, setting), 0, 1)
            object.__setattr__(self, setting, value)
        check_choice("method.window", self.window, ("calls", "fraction"))

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
                                    "published word.", "Give one method.concept.")
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


def _spread(setting: str, value: Any, count: int) -> tuple[Any, ...]:
    """Return one value per concept."""
    if not isinstance(value, (list, tuple)):
        return (value,) * count
    if len(value) != count:
        raise InvalidValueError(f"method.{setting} has {len(value)} values for {count} concepts.")
    return tuple(value)


def _checked(setting: str, value: Any) -> Any:
    if setting in _RANGES:
        low, high = _RANGES[setting]
        return check_number(f"method.{setting}", value, low, high)
    if setting == "reverse":
        if not isinstance(value, bool):
            raise InvalidValueError(f"method.reverse={value}: true or false is needed.")
        return value
    if setting == "cooldown" and value is None:
        return None
    return check_integer(f"method.{setting}", value, 0, 1000)
