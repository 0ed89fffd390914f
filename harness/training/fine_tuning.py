"""What methods that fine-tune the denoiser share: parameter sets, a float32 working copy, deltas, latents on the way.

The weights of the model are never trained in place: trained parameters are float32 tensors that stand in for those of
the module during a call. The artifact is their difference to the model's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from harness.checks import check_choice
from harness.errors import IncompatibleError
from harness.method import Artifact, Export, Method, Progress
from harness.models.conditions import Condition, condition, denoiser_inputs, joined
from harness.setting_types import BatchSize, Iterations, LearningRate, Seed, Strength, WeightDecay
from harness.training import weight_edits
from harness.training.loop_memory import Carried, LoopMemory, adam_step, broke_down
from harness.training.weight_edits import unet_export

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

Denoise = Callable[["Tensor", "Tensor", Any], "Tensor"]  # z (B, C, H, W), t, what texts tell -> prediction

SUFFIX = ".delta"

ParameterSet = Callable[[Any], list[str]]  # denoiser -> names of its parameters, in the module's order


def named(chosen: Callable[[str], bool]) -> ParameterSet:
    """Return the set of the parameters whose names are `chosen`."""
    return lambda denoiser: [name for name, _ in denoiser.named_parameters() if chosen(name)]


def _timeless(name: str) -> bool:
    return not name.startswith("conv_out.") and "time_embed" not in name


PARAMETER_SETS: Mapping[str, ParameterSet] = {
    "full": named(lambda name: True),
    "xattn": named(lambda name: "attn2" in name),
    "noxattn": named(lambda name: "attn2" not in name and _timeless(name)),
    "x_strict": named(lambda name: "attn2.to_k" in name or "attn2.to_v" in name),
    "selfattn": named(lambda name: "attn1" in name),
    "attn": named(lambda name: "attn1" in name or "attn2" in name),
    "notime": named(_timeless),
}


def parameter_names(denoiser: Any, which: str, sets: Mapping[str, ParameterSet] = PARAMETER_SETS) -> list[str]:
    """Return the names of a parameter set, in the module's order. Raises IncompatibleError when it is empty."""
    names = sets[check_choice("parameters", which, tuple(sets))](denoiser)
    if not names:
        raise IncompatibleError(f"this denoiser has no parameters in the set {which}.")
    return names


class WorkingCopy:
    """Float32 copies of some of the denoiser's parameters. Gradients flow to them and to nothing else."""

    def __init__(self, model: LoadedModel, names: Sequence[str]) -> None:
        import torch

        parameters = dict(model.denoiser.named_parameters())
        self.model = model
        # In the model's own precision and memory: nothing writes to them while the copy is trained.
        self.start = {name: parameters[name].detach() for name in names}
        self.parameters = {name: value.to(torch.float32, copy=True).requires_grad_()
                           for name, value in self.start.items()}

    def denoise(self, z: Tensor, t: Tensor, texts: Condition | Tensor) -> Tensor:
        """Run the denoiser with these parameters in place of its own; return its prediction, float32."""
        from torch.func import functional_call

        inputs = {**denoiser_inputs(self.model, z, texts), "return_dict": False}
        out: Tensor = functional_call(self.model.denoiser, self.parameters, (z, t), inputs)[0]
        return out.float()

    def follow(self, other: WorkingCopy, decay: float) -> None:
        """Move to the exponential moving average: decay * own + (1 - decay) * other."""
        import torch

        with torch.no_grad():
            for name, value in self.parameters.items():
                value.lerp_(other.parameters[name], 1 - decay)

    def deltas(self) -> dict[str, Tensor]:
        """Return trained minus own, float32, on the CPU."""
        return {f"{name}{SUFFIX}": (value.detach() - self.start[name].float()).cpu()
                for name, value in self.parameters.items()}


def frozen_denoise(model: LoadedModel) -> Denoise:
    """Return the denoiser as it is, without gradients, for a model held by `frozen_denoiser`."""
    import torch

    def denoise(z: Tensor, t: Tensor, texts: Condition | Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = model.denoiser(z, t, **denoiser_inputs(model, z, texts), return_dict=False)[0]
        return out.float()

    return denoise


@contextmanager
def applied_deltas(denoiser: Any, tensors: Mapping[str, Tensor], strength: float = 1.0) -> Iterator[None]:
    """Add `strength` times the deltas, in float32, then cast; leaving puts the very same bytes back."""
    import torch

    parameters = dict(denoiser.named_parameters())
    deltas = {name.removesuffix(SUFFIX): delta for name, delta in tensors.items()}
    if not tensors or not all(name.endswith(SUFFIX) for name in tensors):
        raise IncompatibleError("the artifact is not a change of a denoiser's weights.")
    unknown = [name for name, delta in deltas.items()
               if name not in parameters or parameters[name].shape != delta.shape]  # fmt: skip
    if unknown:
        raise IncompatibleError(f"the artifact changes {unknown[0]}, which this denoiser does not have in that shape.")
    kept = {name: parameters[name].detach().to("cpu", copy=True) for name in deltas}
    try:
        with torch.no_grad():
            for name, delta in deltas.items():
                parameters[name].copy_(parameters[name].float() + strength * delta.to(parameters[name].device))
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


@dataclass(frozen=True)
class Stop:
    """Where partial denoising stops: after `calls` denoiser calls, to train at timestep `t`."""

    calls: int
    t: int


def timestep_bin(k: int, steps: int, total: int) -> range:
    """Return the timesteps that k of `steps` denoising steps have reached, of `total`."""
    return range(round((1 - (k + 1) / steps) * total), round((1 - k / steps) * total))


def draw_stop(generator: Generator, steps: int, total: int, timesteps: str = "uniform") -> Stop:
    """Draw k in [0, steps) and t in its bin: uniform, or mid-trajectory by Beta(3, 3), the median of five uniforms."""
    import torch

    share = torch.rand(5, generator=generator).median() if timesteps == "beta" else torch.rand(1, generator=generator)
    k = min(int(float(share) * steps), steps - 1)
    reached = timestep_bin(k, steps, total)
    return Stop(k, reached[int(torch.randint(len(reached), (1,), generator=generator))])


@dataclass(frozen=True)
class PartialDenoising:
    """Sampling from noise, guided by c, up to a stop: z' = step(u + w (p - u))."""

    scheduler: Any
    steps: int
    guidance_scale: float

    def run(self, denoise: Denoise, noise: Tensor, c: Condition | Tensor, u: Condition | Tensor, calls: int) -> Tensor:
        """Return the latent after `calls` denoiser calls; the noise itself, scaled, after none."""
        import torch

        self.scheduler.set_timesteps(self.steps, device=noise.device)
        z = noise * self.scheduler.init_noise_sigma
        with torch.no_grad():
            for t in self.scheduler.timesteps[:calls]:
                z = self.scheduler.step(self._guided(denoise, z, t, c, u), t, z).prev_sample
        return z

    def _guided(self, denoise: Denoise, z: Tensor, t: Tensor, c: Condition | Tensor, u: Condition | Tensor) -> Tensor:
        import torch

        if self.guidance_scale in (0, 1):
            return denoise(z, t, c if self.guidance_scale else u)
        without, with_c = denoise(torch.cat([z, z]), t, joined(u, c)).chunk(2)
        return without + self.guidance_scale * (with_c - without)


def optimise(copy: WorkingCopy, method: FineTuned, step: Callable[[int], Tensor], progress: Progress,
             after: Callable[[], None] | None = None, carried: Carried | None = None) -> list[float]:
    """Take `method.iterations` AdamW steps on the loss of `step(i)`; return the losses.

    What is interrupted continues where it was, to the same bits, if `carried` holds all that `step` and `after` change.
    A loss or gradient that is not finite raises HarnessError and says at which step.
    """
    import torch

    values = list(copy.parameters.values())
    adam = torch.optim.AdamW(values, lr=method.learning_rate, weight_decay=method.weight_decay)
    with LoopMemory(copy.model.training_folder, adam, copy.parameters, carried) as memory:
        for i in memory.remaining(method.iterations):
            with torch.enable_grad():
                loss = step(i)
            value = memory.checked(float(loss.detach()), method.name)
            adam.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(values, method.max_grad_norm or math.inf)
            memory.checked(float(norm), method.name)
            adam_step(memory, adam, value, after)
            progress(method.name, i + 1, method.iterations)
    return memory.losses


def check_finite(value: float, name: str, step: int) -> float:
    """Return `value`. Raises HarnessError if it is infinite or no number."""
    if not math.isfinite(value):
        raise broke_down(value, name, step)
    return value


GradNorm = Annotated[float, Ge(0), Le(1e9)]


@dataclass(frozen=True, kw_only=True)
class FineTuned(Method):
    """A method whose artifact is a change of denoiser weights, learned in float32.

    `parameters` names one of its `parameter_sets`. `strength` scales the change; zero is the base model. `weight_decay`
    zero makes AdamW Adam; `max_grad_norm` zero switches clipping off, null too unless a preset says otherwise.
    """

    parameters: str = "xattn"
    iterations: Iterations = 1000
    learning_rate: LearningRate = 1e-5
    weight_decay: WeightDecay = 0.0
    max_grad_norm: GradNorm | None = None
    batch: BatchSize = 1
    strength: Strength = 1.0
    seed: Seed = 0

    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "U-Net"
    parameter_sets: ClassVar[Mapping[str, ParameterSet]] = PARAMETER_SETS

    def __post_init__(self) -> None:
        check_choice("method.parameters", self.parameters, tuple(self.parameter_sets))

    @property
    def trains(self) -> bool:
        return self.strength != 0

    def training_identity(self) -> dict[str, Any]:
        params = {key: value for key, value in self.params().items() if key != "strength"}
        return {"kind": self.kind, "version": self.version, "params": params}

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        weight_edits.check_family(self.name, model_config, "a U-Net on latents", weight_edits.UNETS)

    def parameter_names(self, denoiser: Any) -> list[str]:
        """Return the names of the parameters that it trains, in the module's order."""
        return parameter_names(denoiser, self.parameters, self.parameter_sets)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        return applied_deltas(model.denoiser, artifact.tensors, self.strength) if artifact else nullcontext()

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        deltas = {name.removesuffix(SUFFIX): delta for name, delta in artifact.tensors.items()}
        return unet_export(load(), artifact, deltas)


def latent_shape(model: LoadedModel) -> tuple[int, int, int]:
    """Return (C, H, W) of the model's own latents."""
    config = model.denoiser.config
    return config.in_channels, config.sample_size, config.sample_size


def draw_noise(model: LoadedModel, count: int, generator: Generator) -> Tensor:
    """Draw (count, C, H, W) float32 noise on the CPU and bring it to the model."""
    import torch

    return torch.randn(count, *latent_shape(model), generator=generator).to(model.device)


def embed(model: LoadedModel, text: str, count: int) -> Condition:
    """Return what one text tells each row of a batch, float32."""
    return condition(model, [text]).repeated(count)
