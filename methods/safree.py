"""SAFREE (Yoon et al., ICLR 2025): take trigger tokens out of the unsafe subspace, for as many calls as it takes.

Follows the released code where it and the paper differ. Its evaluation gives the concepts to SAFREE, and to its
baseline, as negative prompt too: `negative_prompt`. Its re-attention is switched on and does nothing, as the filter
type never reaches it: `lra`; `lra_form` has what the filters would do there, and the paper's. Of prompts that are cut
off it loses the end token, and with it every trigger: `long_prompts`. It samples by DPM-Solver++: the presets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import exp
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from harness.errors import IncompatibleError, InvalidValueError
from harness.method import Artifact, EmbedBundle, ExtraRow, Method, StepContext, scaled_calls
from harness.records import ImageItem
from harness.sampling.windows import check_window, in_window
from harness.setting_types import Call, Calls, TextList, UnitInterval, Window
from harness.training.weight_edits import UNETS, check_family

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

ROLE = "safree_original"
RADIUS = 1  # FreeU: half the side of the square of low frequencies


def projector(E: Tensor) -> Tensor:
    """Return P = E (E^T E)^+ E^T (D, D), float64, onto the span of the columns of E (D, K); from E's singular vectors.

    Directions below float32's resolution are rounding noise of the text encoder and are left out.
    """
    import torch

    U, S, _ = torch.linalg.svd(E.double(), full_matrices=False)
    noise = torch.finfo(torch.float32).eps * max(E.shape) * float(S.max())
    U = U[:, S.gt(noise)]
    return U @ U.T


def triggers(d: Tensor, alpha: float) -> Tensor:
    """SAFREE eq. 4: token i is a trigger where d_i >= (1 + alpha) mean_{j != i} d_j; d (n,), answer (n,) bool.

    A token without others is one: in the release their mean is NaN, and what is not below NaN counts as trigger.
    """
    import torch

    n = len(d)
    return d >= (1 + alpha) * (d.sum() - d) / (n - 1) if n > 1 else torch.ones(n, dtype=torch.bool)


def filtered_calls(beta: float, upper: int, slope: float, midpoint: float) -> int:
    """SAFREE eq. 7, as released: t' = round(upper sigmoid(2 k (10 beta - midpoint))), halves to even."""
    return round(upper / (1 + exp(-max(-500.0, min(500.0, 2 * slope * (10 * beta - midpoint))))))


def distance(e: Tensor, projected: Tensor) -> float:
    """Return beta = 1 - mean_i cos(e_i, projected_i) over the tokens (n, D) of a prompt, begin and end included."""
    from torch.nn.functional import cosine_similarity

    return float(1 - cosine_similarity(e, projected, dim=-1).mean())


def reattended(edited: Tensor, original: Tensor, s: float, band: str) -> Tensor:
    """SAFREE eq. 9: scale by s what is louder in `edited` (B, C, H, W) than in `original`, frequency by frequency.

    "low" is the square of radius 1 around zero frequency, "high" all others. Where nothing is louder nothing changes.
    """
    import torch
    from torch.fft import fft2, fftshift, ifft2, ifftshift

    f, g = (fftshift(fft2(x.float()), dim=(-2, -1)) for x in (edited, original))
    low = _low(edited)
    chosen = {"low": low, "high": ~low, "all": torch.ones_like(low)}[band]
    excess = f * ((1 - s) * (chosen & (f.abs() > g.abs())))
    return (edited - ifft2(ifftshift(excess, dim=(-2, -1))).real).to(edited.dtype)


def replaced(edited: Tensor, original: Tensor, s: float, band: str) -> Tensor:
    """Put the number s itself in the place of coefficients of `edited` (B, C, H, W), as the released filters do.

    Low: where the original's real part is not the larger one, so also where both are the same. High: where the size of
    its real part is. All: high, then low.
    """
    import torch
    from torch.fft import fft2, fftshift, ifft2, ifftshift

    if band == "all":
        return replaced(replaced(edited, original, s, "high"), original, s, "low")
    f, g = (fftshift(fft2(x.float()), dim=(-2, -1)) for x in (edited, original))
    low = _low(edited)
    chosen = low & ((g - f).real <= 0) if band == "low" else ~low & (g.real.abs() > f.real.abs())
    kept = torch.where(chosen, torch.full_like(f, s), f)
    return ifft2(ifftshift(kept, dim=(-2, -1)), dim=(-2, -1)).real.to(edited.dtype)


def _low(x: Tensor) -> Tensor:
    """Return which of the shifted frequencies of `x` (..., H, W) are low: (H, W) bool."""
    import torch

    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    low = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
    low[max(0, row - RADIUS) : row + RADIUS, max(0, column - RADIUS) : column + RADIUS] = True
    return low


@dataclass(frozen=True)
class Edited:
    """One prompt's embedding (L, D), float32 on the CPU, after the edit, and for how many calls of 50 it is used."""

    embeds: Tensor
    calls: int | None  # None: those of the window


@dataclass(frozen=True)
class SAFREE(Method):
    """Project trigger tokens onto (I - P_C) P_I: out of the span of `concepts`, within that of the masked prompt.

    `svf`: edited embeddings in denoiser calls 0 to t' of a 50-step run, else in calls `start` to `end` (from 1 on;
    null = to the end); `window` says whether fewer steps keep the count ("calls", as released) or the share.
    `strength` is ours: 1 is the paper's edit, 0 switches the method off. To be put left of methods that change
    embeddings: it needs those of the prompt itself.
    On sdxl the channels of the second encoder alone are edited, from subspaces of its projected embeddings, and the
    pooled embedding stays, as in the release.
    `long_prompts`: "released" leaves prompts alone that are longer than the encoder reads; "edited" treats what it
    reads of them as any other. `lra_form` "released": in every call, and where the features that meet a skip are as
    wide as the widest (scale 1) or the next (scale 2) stage; "paper": scaled where louder, in the first two stages of
    the decoder, for images whose edit is in use.
    """

    concepts: Annotated[TextList, MinLen(1)]
    alpha: Annotated[float, Ge(-1), Le(1e6)] = 0.01
    svf: bool = True
    svf_upper: Calls = 10
    svf_slope: Annotated[float, Ge(0), Le(1e3)] = 2.5
    svf_midpoint: Annotated[float, Ge(-1e3), Le(1e3)] = 5.333
    start: Call = 1
    end: Call | None = None
    lra: Literal["off", "high", "low", "all"] = "off"
    lra_scale_1: Annotated[float, Ge(0), Le(10)] = 0.9
    lra_scale_2: Annotated[float, Ge(0), Le(10)] = 0.2
    lra_form: Literal["released", "paper"] = "released"
    long_prompts: Literal["released", "edited"] = "released"
    negative_prompt: bool = True
    window: Window = "fraction"
    strength: UnitInterval = 1.0
    name: str = "safree"

    kind: ClassVar[str] = "safree"
    version: ClassVar[int] = 2  # 2: cut prompts, SDXL's subspaces and re-attention as released
    needs_own_embeds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_window("method", self.start, self.end)
        if self.svf and (self.start, self.end) != (1, None):
            raise InvalidValueError("method.start and method.end apply only with method.svf=false; otherwise the "
                                    "prompt decides.")

    @property
    def owns_uncond(self) -> bool:  # type: ignore[override]
        """Say whether the concepts take the unconditional row, as in the released evaluation."""
        return self.negative_prompt and self.strength > 0

    @property
    def needs_guidance(self) -> bool:  # type: ignore[override]
        return self.owns_uncond

    @property
    def denoiser_rows(self) -> int:
        return 1 if self.lra != "off" and self.strength else 0

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        return replace(self, concepts=tuple(dict.fromkeys(map(rename, self.concepts))))

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the tokens of a CLIP text encoder", UNETS)
        if model_config.get("family") == "sdxl" and self.strength and (self.svf or self.lra != "off"):
            raise IncompatibleError(f"method {self.name} has its filter and its re-attention for sd1 and sd2 only: the "
                                    f"release uses neither on SDXL, and model {model_config.get('name')} is sdxl.",
                                    "Set method.svf=false method.lra=off.")

    def first_call(self, n_steps: int) -> int:
        return 0 if self.svf or not self.strength else scaled_calls(self.start - 1, n_steps, self.window)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> Any:
        return attention_hooks(model, self) if self.denoiser_rows else super().attach(model, artifact)

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem]:
        if not self.owns_uncond:
            return items
        concepts = ", ".join(self.concepts)
        return [replace(item, negative_prompt=", ".join(filter(None, (item.negative_prompt, concepts))))
                for item in items]

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        if not self.strength:
            return bundle
        if "edits" not in ctx.state:
            ctx.state.update(edits=self.edits(ctx, bundle.cond), original=bundle.cond)
        active = [index for index, edit in enumerate(ctx.state["edits"]) if edit is not None and self._is_on(ctx, edit)]
        filtered = range(len(ctx.items)) if self.lra_form == "released" else active
        ctx.state["filtered"] = bool(filtered)
        if self.denoiser_rows:
            self.__dict__["_active"] = frozenset(filtered)
        if not active:
            return bundle
        cond = bundle.cond.clone()
        for index in active:
            cond[index] = ctx.state["edits"][index].embeds.to(cond)
        return replace(bundle, cond=cond)

    def rows(self, ctx: StepContext) -> Sequence[ExtraRow]:
        wanted = self.denoiser_rows and ctx.state["filtered"]
        return [ExtraRow(ROLE, ctx.state["original"])] if wanted else ()

    def _is_on(self, ctx: StepContext, edit: Edited) -> bool:
        if edit.calls is None:
            return in_window(ctx.call, ctx.n_calls, ctx.n_steps, self.start, self.end, self.window)
        return ctx.call < scaled_calls(edit.calls, ctx.n_steps, self.window)

    def edits(self, ctx: StepContext, cond: Tensor) -> list[Edited | None]:
        """Return the edit of each prompt of the batch, worked out in float32; None where no token is a trigger."""
        import torch

        from harness.models.text_encoder import last_pooled, last_token_ids

        model = ctx.model
        edited: dict[str, Edited | None] = {}
        with model.float32_texts():
            C = torch.cat([last_pooled(model, last_token_ids(model, text)) for text in self.concepts])
            away = torch.eye(C.shape[1], dtype=torch.float64) - projector(C.T)
            for item, embeds in zip(ctx.items, cond, strict=True):
                if item.prompt not in edited:
                    embedding = embeds if embeds.dtype == torch.float32 else model.embed(item.prompt)
                    edited[item.prompt] = self.edit(model, item.prompt, embedding, away)
        return [edited[item.prompt] for item in ctx.items]

    def edit(self, model: LoadedModel, prompt: str, embeds: Tensor, away: Tensor) -> Edited | None:
        """Return the edited embedding of one prompt; `away` is I - P_C. None where no token is a trigger."""
        from harness.models.text_encoder import last_overflows, last_pooled, last_token_ids

        ids = last_token_ids(model, prompt)
        n = ids.shape[1] - 2
        # Without an end token the release pools the begin token, which sees no other: no token stands out.
        if n < 1 or (self.long_prompts == "released" and last_overflows(model, prompt)):
            return None
        m = last_pooled(model, masked(ids)).double()
        is_trigger = triggers((away @ m.T).norm(dim=0), self.alpha)
        if not is_trigger.any():
            return None
        whole = embeds.double().cpu()
        e = whole[:, -len(away) :]
        projected = e @ (away @ projector(m.T)).T
        calls = None
        if self.svf:
            beta = distance(e[: n + 2], projected[: n + 2])
            calls = 1 + filtered_calls(beta, self.svf_upper, self.svf_slope, self.svf_midpoint)
        where = 1 + is_trigger.nonzero()[:, 0]
        e[where] += self.strength * (projected[where] - e[where])
        return Edited(whole.float(), calls)


def masked(ids: Tensor) -> Tensor:
    """Return `ids` (1, n + 2) n times, token i replaced by id 0 in row i."""
    n = ids.shape[1] - 2
    rows = ids.repeat(n, 1)
    rows.diagonal(offset=1)[:] = 0
    return rows


@contextmanager
def attention_hooks(model: LoadedModel, method: SAFREE) -> Iterator[None]:
    """Filter skip features that enter the decoder, as FreeU does, in conditional rows."""
    widths = sorted(set(model.denoiser.config.block_out_channels), reverse=True)
    by_width = dict(zip(widths, (method.lra_scale_1, method.lra_scale_2), strict=False))
    with ExitStack() as stack:
        for place, block in enumerate(model.denoiser.up_blocks):
            by_stage = (method.lra_scale_1, method.lra_scale_2)[place] if place < 2 else None
            hook = partial(_reattend, model, method, by_width if method.lra_form == "released" else by_stage)
            stack.callback(block.register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.callback(method.__dict__.pop, "_active", None)
        yield


def _reattend(model: LoadedModel, method: SAFREE, scales: Mapping[int, float] | float | None, block: Any, args: Any,
              kwargs: dict[str, Any]) -> Any:
    """Filter the rows of the images that are to be; `scales` by the width of what meets a skip, or one for all."""
    active, n = method.__dict__.get("_active", frozenset()), len(model.items)
    cond = [row for row, role in enumerate(model.roles) if role == "cond" and row % n in active]
    original = [row for row, role in enumerate(model.roles) if role == ROLE and row % n in active]
    if not original or scales is None:
        return None
    form = replaced if method.lra_form == "released" else reattended
    skips = list(kwargs["res_hidden_states_tuple"])
    for place, width in enumerate(_widths(block, kwargs["hidden_states"]) if isinstance(scales, Mapping) else skips):
        s = scales.get(width) if isinstance(scales, Mapping) else scales
        if s is not None:
            skip = skips[-1 - place]  # the last one is used first
            changed = skip.clone()
            changed[cond] = form(skip[cond], skip[original], s, method.lra)
            skips[-1 - place] = changed
    return args, kwargs | {"res_hidden_states_tuple": tuple(skips)}


def _widths(block: Any, hidden_states: Tensor) -> list[int]:
    """Return the channels that meet each skip of a decoder stage, in the order in which it uses them."""
    return [hidden_states.shape[1], *(resnet.out_channels for resnet in block.resnets[:-1])]
