"""The one hook into diffusers: the denoiser's call is widened, and its answer carries the edited guidance direction.

A stock pipeline computes `row0 + w (row1 - row0)` from the denoiser's two rows. Where a method edits the direction, or
where images of a batch have different guidance scales, both rows returned are `e = u + w delta` itself, so that the
pipeline's sum is `e` to the bit, whatever scalar w it uses. Where nothing is edited the rows pass untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.method import Artifact, EmbedBundle, ExtraRow, Method, StepContext
from harness.models.families import DenoiserCall, kin_of
from harness.records import ImageItem
from harness.sampling.patching import forward_replaced
from harness.sampling.prediction_types import epsilon_slope, noise_level, to_epsilon

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


@dataclass
class PipelineCall:
    """One pipeline call: who is in the batch, their embeddings, and the methods' state.

    Without a bundle the embeddings are those that the pipeline tells its denoiser.
    """

    items: Sequence[ImageItem]
    bundle: EmbedBundle | None
    n_steps: int
    count: int = 0  # denoiser calls so far
    is_plain: bool = False  # a user's own, which may begin at an image: its first call says how many went before
    began: bool = False
    states: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_uniform(self) -> bool:
        """Return whether one guidance scale holds for all images, so that the pipeline's own sum is right."""
        return len({item.guidance_scale for item in self.items}) == 1


class DenoiserHook:
    """Stands in for the denoiser's `forward` while methods are attached."""

    def __init__(self, model: LoadedModel, methods: Sequence[Method], artifacts: Sequence[Artifact | None]) -> None:
        self.model = model
        self.methods = tuple(methods)
        self.artifacts = tuple(artifacts)
        self.edits_direction = any(method.overrides("guide") for method in methods)
        self.original = model.denoiser.forward
        self._current: PipelineCall | None = None
        self._guiding = False  # a method runs the denoiser itself

    @property
    def is_running(self) -> bool:
        """Return whether a pipeline call is being served."""
        return self._current is not None

    @contextmanager
    def running(self, call: PipelineCall) -> Iterator[None]:
        """Serve one pipeline call, from fresh state."""
        for method in self.methods:
            if method.needs_guidance:
                method.check(self.model.config, min(item.guidance_scale for item in call.items))
        self._current = call
        try:
            yield
        finally:
            self._current = None
            self.model.roles, self.model.items, self.model.moment = (), (), 0.0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Widen the call by the methods' rows and return the two rows (or the one) that the pipeline expects."""
        call = self._current
        if call is None:
            self._check_outside()
            return self.original(*args, **kwargs)
        n, kin = len(call.items), kin_of(self.model)
        asked = kin.taken(args, kwargs)
        if call.is_plain and not call.began:
            call.count = kin.calls_before(self.model.pipe.scheduler, asked.timestep)
        call.began = True
        contexts = self._contexts(call, asked.sample[:n], asked.timestep)
        self.model.items, self.model.moment = tuple(call.items), call.count / kin.calls(self.model.pipe.scheduler)
        call.count += 1
        roles = list(kin.roles) if len(asked.sample) == len(kin.roles) * n else ["cond"]
        self._check_rows(roles)
        call.bundle = call.bundle or _told(asked, roles, n)
        asked = self._edit_texts(contexts, call.bundle, roles, kin.guided(asked, contexts[0].w.flatten()))
        rows = self._rows(contexts)
        roles += [row.role for row in rows]
        self.model.roles = tuple(role for role in roles for _ in range(n))
        asked = asked.widened(rows, n, n * roles.index("cond"))
        out, rest = kin.parted(kin.run(self.original, asked), asked)
        raw = dict(zip(roles, out.split(n), strict=True))
        variance = None if rest is None else dict(zip(roles, rest.split(n), strict=True))["cond"]
        if "uncond" not in raw:
            return kin.answer(kin.joined(raw["cond"], variance))
        self._current, self._guiding = None, True  # `guide` may run the denoiser itself, unwrapped
        try:
            return kin.answer(kin.joined(self._followed(call, contexts, raw), variance))
        finally:
            self._current, self._guiding = call, False

    def _check_outside(self) -> None:
        """Refuse a call that no method would see: of another pipeline with the same denoiser, or of the denoiser."""
        blind = [method.name for method in self.methods if method.acts_in_calls()]
        if blind and not self._guiding and not self.model.roles:  # roles: somebody says what the rows are
            raise IncompatibleError(f"method {blind[0]} is applied to a {type(self.model.pipe).__name__}, and its "
                                    "denoiser was called outside of that pipeline, where the method does not act.",
                                    "Call that pipeline, or remove the method first.")

    def _check_rows(self, roles: Sequence[str]) -> None:
        """Refuse a call without an unconditional row, in which methods that edit guidance would do nothing."""
        idle = [method.name for method in self.methods if method.needs_guidance]
        if idle and "uncond" not in roles:
            raise IncompatibleError(f"method {idle[0]} edits classifier-free guidance, and the pipeline called its "
                                    "denoiser without an unconditional row.", "Leave guidance on in every step.")

    def _contexts(self, call: PipelineCall, z: Tensor, timestep: Any) -> list[StepContext]:
        import torch

        scales = [item.guidance_scale for item in call.items]
        w = torch.tensor(scales, dtype=torch.float32, device=z.device).view(-1, 1, 1, 1)
        t = torch.as_tensor(timestep).flatten()[0]
        t = t if kin_of(self.model).t_unit == 1 else t * kin_of(self.model).t_unit
        n_calls = kin_of(self.model).calls(self.model.pipe.scheduler)
        return [
            StepContext(call.count, n_calls, call.n_steps, t, w, z, call.items, self.model, artifact,
                        call.states.setdefault(index, {}))
            for index, artifact in enumerate(self.artifacts)
        ]  # fmt: skip

    def _edit_texts(self, contexts: list[StepContext], bundle: EmbedBundle, roles: list[str], asked: DenoiserCall
                    ) -> DenoiserCall:
        """Let methods edit the embeddings; put those of the pipeline's own rows in their place if one did."""
        import torch

        edited = bundle
        for method, ctx in zip(self.methods, contexts, strict=True):
            edited = method.embeds(ctx, edited)
        if edited is bundle:
            return asked
        parts = {"uncond": edited.uncond, "cond": edited.cond}
        asked = replace(asked, embeds=torch.cat([parts[role].to(bundle.cond.dtype) for role in roles]))
        if edited.pooled_cond is None or edited.pooled_uncond is None:
            return asked
        pooled = {"uncond": edited.pooled_uncond, "cond": edited.pooled_cond}
        return replace(asked, pooled=torch.cat([pooled[role].to(bundle.cond.dtype) for role in roles]))

    def _rows(self, contexts: list[StepContext]) -> list[ExtraRow]:
        """Return the extra rows that methods ask for, each role once."""
        rows: dict[str, ExtraRow] = {}
        for method, ctx in zip(self.methods, contexts, strict=True):
            for row in method.rows(ctx):
                if rows.setdefault(row.role, row).embeds is not row.embeds:
                    raise IncompatibleError(f"two methods ask for a denoiser row '{row.role}' with different texts.")
        return list(rows.values())

    def _followed(self, call: PipelineCall, contexts: list[StepContext], raw: Mapping[str, Tensor]) -> Tensor:
        """Return the two rows that make the pipeline follow the edited direction."""
        import torch

        u, p = raw["uncond"], raw["cond"]
        stock = p - u
        direction = self._direction(contexts, raw, stock) if self.edits_direction else stock
        if direction is stock and call.is_uniform:
            return torch.cat([raw[role] for role in kin_of(self.model).roles])
        w = contexts[0].w
        e = u + (w * direction).to(u.dtype)
        if direction is stock:
            e = torch.where(w > 1, e, p)  # a stock pipeline at w <= 1 follows the conditional row
        return torch.cat([e, e])

    def _direction(self, contexts: list[StepContext], raw: Mapping[str, Tensor], stock: Tensor) -> Tensor:
        """Let methods edit the direction in epsilon space; return `stock` itself if none did."""
        kind, ctx = self.model.prediction_type, contexts[0]
        level = noise_level(kind, self.model.pipe.scheduler, float(ctx.t))
        preds = {role: to_epsilon(row.float(), ctx.z.float(), kind, level) for role, row in raw.items()}
        slope = epsilon_slope(kind, level)
        start = delta = stock.float() * slope
        for method, context in zip(self.methods, contexts, strict=True):
            delta = method.guide(context, preds, delta)
        return stock if delta is start else delta / slope


def _told(asked: DenoiserCall, roles: Sequence[str], n: int) -> EmbedBundle:
    """Return the embeddings that a pipeline tells its denoiser; zeros for a row that it does not run."""
    embeds = dict(zip(roles, asked.embeds.split(n), strict=True))
    pooled = {} if asked.pooled is None else dict(zip(roles, asked.pooled.split(n), strict=True))
    cond, pooled_cond = embeds["cond"], pooled.get("cond")
    nothing = None if pooled_cond is None else 0 * pooled_cond
    return EmbedBundle(cond, embeds.get("uncond", 0 * cond), pooled_cond, pooled.get("uncond", nothing))


@contextmanager
def hooked(model: LoadedModel, methods: Sequence[Method], artifacts: Sequence[Artifact | None]
           ) -> Iterator[DenoiserHook]:
    """Wrap the model's denoiser; leaving the context removes the wrapper. Raises IncompatibleError where one is."""
    inside = getattr(model.denoiser.__dict__.get("forward"), "__self__", None)
    if isinstance(inside, DenoiserHook):
        raise IncompatibleError(f"method {'+'.join(method.name for method in inside.methods)} is already applied to "
                                "this model.", "Remove it first, or apply several as one list.")
    hook = DenoiserHook(model, methods, artifacts)
    with forward_replaced(model.denoiser, hook.forward):
        yield hook
