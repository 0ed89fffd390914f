"""SAeUron (Cywinski & Deja, ICML 2025), loaded: a sparse autoencoder in the U-Net finds a concept and turns it around.

At one attention block's output x, z = topk(relu(A (x - b_dec) + b)) are sparse features, x ~ z D + b_dec. A concept's
features at a step are those whose share of the mean activation exceeds the other concepts' by most (`percentile`).
Where such a feature is above its mean over all concepts, `multiplier` times its mean for the concept multiplies it.
What the autoencoder does not explain is kept: "exact" adds x - x^, the released hook adds x^ - x (its sign).
Published autoencoders were trained on the UnlearnCanvas model, not on plain Stable Diffusion 1.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.errors import InvalidValueError, unknown_name
from harness.lib.tensor_headers import SUFFIX, FileFault, shown
from harness.lib.torch_headers import content_of
from harness.lib.wanted import Download, HubFiles, names_in
from harness.method import Artifact
from harness.models.part_tensors import base_shapes
from harness.models.weight_files import CONVERT, read_json
from harness.setting_types import FilePath, OneOrMore, Percent, Text
from harness.training.published import HUB, CheckpointMethod, check_layout, checkpoint_path, finite, read_checkpoint
from harness.training.weight_edits import check_family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.models.loaded import LoadedModel

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def feature_scores(target: Tensor, others: Tensor) -> Tensor:
    """Return each feature's share of the concept's mean activation less that of the others': (F,) from (F,), (F,)."""
    epsilon = 1e-8
    return target / (target.sum() + epsilon) - others / (others.sum() + epsilon)


@dataclass(frozen=True)
class StepFeatures:
    """What one step changes: features (f,), what multiplies them (f,), and above which activation (f,)."""

    index: Tensor
    scale: Tensor
    threshold: Tensor


def selected(activations: Mapping[str, Tensor], concepts: Sequence[str], step: int, percentile: float,
             multiplier: float) -> StepFeatures:
    """Return a step's features from activations {concept: (N, steps, F)}, those of several concepts one after another.

    Where concepts share a feature the last one's scale counts, as in the release, which writes them in turn.
    `multiplier` times the concept's mean activation multiplies a feature; the threshold is its mean over all concepts.
    """
    import torch

    means = {name: value[:, step].float().mean(0) for name, value in activations.items()}
    everywhere = torch.stack(list(means.values())).mean(0)
    index, scale = [], []
    for concept in concepts:
        rest = [value[:, step].float() for name, value in activations.items() if name != concept]
        scores = feature_scores(means[concept], torch.cat(rest).mean(0)) if rest else means[concept]
        top = torch.where(scores > torch.quantile(scores, percentile / 100))[0]
        index.append(top)
        scale.append(multiplier * means[concept][top])
    features, factor = torch.cat(index), torch.cat(scale)
    last = sorted({feature: place for place, feature in enumerate(features.tolist())}.values())
    return StepFeatures(features[last], factor[last], everywhere[features[last]])


@dataclass(frozen=True)
class Autoencoder:
    """encoder (F, D) with bias (F), decoder (F, D) with bias (D); k features of a position are active."""

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    k: int

    def encode(self, x: Tensor) -> Tensor:
        """Return features (..., F) of x (..., D)."""
        import torch

        values, where = ((x - self.decoder_bias) @ self.encoder.T + self.bias).relu().topk(self.k, dim=-1)
        return torch.zeros(*x.shape[:-1], len(self.bias), device=x.device).scatter_(-1, where, values)

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.decoder + self.decoder_bias


def unlearned(x: Tensor, sae: Autoencoder, step: StepFeatures, error: str) -> Tensor:
    """Return x (..., D) with the step's features turned around."""
    import torch

    z = sae.encode(x)
    before = sae.decode(z)
    activations = z[..., step.index]
    z[..., step.index] = torch.where(activations > step.threshold, activations * step.scale, activations)
    rest = x - before if error == "exact" else before - x
    return sae.decode(z) + rest


@dataclass(frozen=True)
class SAeUron(CheckpointMethod):
    """x + strength (x' - x) at `hookpoint`. The checkpoint is a folder with cfg.json and sae.safetensors, or above it.

    `activations` is a safetensors file of the release's gathered features, {concept: (prompts, steps, features)}; a
    run of other length takes the nearest earlier step. `error` released keeps the hook's sign.
    """

    hookpoint: Text = "unet.up_blocks.1.attentions.2"
    activations: FilePath | None = None
    concepts: OneOrMore[Text] = ()
    percentile: Percent = 99.999
    multiplier: Annotated[float, Ge(-1000), Le(1000)] = -1.0
    error: Literal["released", "exact"] = "released"
    name: str = "saeuron"

    kind: ClassVar[str] = "saeuron"
    edits_model: ClassVar[bool] = True
    edits_training: ClassVar[bool] = False
    how_to_get: ClassVar[str] = (
        "Get it: hf download bcywinski/SAeUron, then method.checkpoint=hf://bcywinski/SAeUron/<folder>; gather "
        "activations with https://github.com/cywinski/SAeUron (scripts/gather_sae_acts_ca_prompts.py), then python -m "
        "harness.cli.convert <its .pkl> <new file>.safetensors and method.activations=<that file>."
    )

    def files(self) -> list[Path]:
        folders = [path / self.hookpoint if (path / self.hookpoint).is_dir() else path for path in self.paths]
        files = [folder / name for folder in folders for name in (WEIGHTS, CONFIG)]
        return files + ([checkpoint_path(self.activations, self.revision)] if self.activations else [])

    def params(self) -> dict[str, Any]:
        return {key: value for key, value in super().params().items() if key != "activations"}

    def missing(self) -> str | None:
        problem = super().missing()
        if problem is None and self.strength and not self.activations:
            return f"method {self.name} needs method.activations=<file>. {self.how_to_get}"
        return problem

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the U-Net that its autoencoder was made for")
        self.check_contents(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        file, config_file, activations = self.files()
        n, width = _sizes(config_file)
        _whole(config_file, "k")
        check_layout(file, content_of(file), _layout(n, width))
        self._check_activations(activations, content_of(activations), n)
        shapes = base_shapes(model_config, "unet")
        path = self.hookpoint.removeprefix("unet.")
        if shapes is not None:
            self._check_block(path, sorted({name[: match.end()] for name in shapes
                                            if (match := re.search(r"(^|\.)attentions\.\d+", name))}))  # fmt: skip
            out = next((shape[0] for name, shape in shapes.items() if name == f"{path}.proj_out.weight"), width)
            self._check_channels(file, width, out)

    def of_hub_folder(self, repo: str, place: str) -> HubFiles:
        """Return the autoencoder's files: in the folder of the hook point, as the release has it, or in the folder."""
        inner = f"{place}/{self.hookpoint}".strip("/")
        folders = (place,) if place.rpartition("/")[2] == self.hookpoint else (inner, place)
        small, weights = ([name for folder in folders for name in names_in(folder, (wanted,))]
                          for wanted in (CONFIG, WEIGHTS))  # fmt: skip
        return HubFiles(repo, self.revision, tuple(small), tuple(weights))

    def downloads(self) -> Sequence[Download]:
        given = self.activations or ""
        wanted = [given.removeprefix(HUB).split("/", 2)] if given.startswith(HUB) else []
        return [*super().downloads(), *(HubFiles("/".join(parts[:2]), self.revision, tuple(parts[2:]))
                                        for parts in wanted)]  # fmt: skip

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if not self.strength:
            return nullcontext()
        self.require()
        sae = self._autoencoder(model)
        return self._hooked(model, sae, self._steps(model, len(sae.bias)))

    def _autoencoder(self, model: LoadedModel) -> Autoencoder:
        file, config_file = self.files()[:2]
        n, width = _sizes(config_file)
        tensors, _ = read_checkpoint(file)
        check_layout(file, tensors, _layout(n, width))
        finite(file, tensors)
        block = self._block(model)
        self._check_channels(file, width, block.out_channels or block.in_channels)
        weight, bias, decoder, centre = (tensors[name].float().to(model.device)
                                         for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
        return Autoencoder(weight, bias, decoder, centre, k=min(_whole(config_file, "k"), n))

    def _block(self, model: LoadedModel) -> Any:
        path = self.hookpoint.removeprefix("unet.")
        blocks = {name: module for name, module in model.denoiser.named_modules()
                  if type(module).__name__ == "Transformer2DModel"}
        self._check_block(path, list(blocks))
        return blocks[path]

    def _check_block(self, path: str, blocks: Sequence[str]) -> None:
        if path not in blocks:
            raise unknown_name("method.hookpoint", self.hookpoint, [f"unet.{name}" for name in blocks])

    def _check_channels(self, file: Path, width: int, channels: int) -> None:
        if channels != width:
            raise InvalidValueError(f"the checkpoint {file} does not fit: it reads {width} channels, {self.hookpoint} "
                                    f"has {channels}.")

    def _check_activations(self, file: Path, activations: Mapping[str, Any], n: int) -> None:
        if file.suffix != SUFFIX:
            raise InvalidValueError(f"the activations {file} are not a safetensors file.",
                                    f"Convert them: {CONVERT} {file} <new file>{SUFFIX}")
        for name, value in activations.items():
            shape = tuple(getattr(value, "shape", ()))
            if len(shape) != 3 or 0 in shape or shape[2] != n:
                raise InvalidValueError(f"the activations {file} do not fit: {shown(name)} has shape {shape}, "
                                        f"(prompts, steps, {n}) is needed.")
        for concept in self.concepts:
            if concept not in activations:
                raise unknown_name("method.concepts", concept, activations)
        if not self.concepts:
            names = ", ".join(sorted(map(shown, activations)))[:200]
            raise InvalidValueError(f"method.concepts is empty; the activations have: {names}.")

    def _steps(self, model: LoadedModel, n: int) -> list[StepFeatures]:
        file = self.files()[-1]
        activations, _ = read_checkpoint(file)
        self._check_activations(file, activations, n)
        finite(file, activations)
        steps = min(value.shape[1] for value in activations.values())
        made = [selected(activations, self.concepts, step, self.percentile, self.multiplier) for step in range(steps)]
        return [StepFeatures(*(part.to(model.device) for part in (s.index, s.scale, s.threshold))) for s in made]

    @contextmanager
    def _hooked(self, model: LoadedModel, sae: Autoencoder, steps: Sequence[StepFeatures]) -> Iterator[None]:
        def hook(module: Any, inputs: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not model.roles:
                return None
            x = output[0].float().movedim(1, -1)
            edited = unlearned(x, sae, steps[int(model.moment * len(steps) + 1e-6)], self.error)
            mixed = x + self.strength * (edited - x)
            return (mixed.movedim(-1, 1).to(output[0].dtype), *output[1:])

        handle = self._block(model).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _sizes(config_file: Path) -> tuple[int, int]:
    """Return how many features an autoencoder has, and how wide its input is, by its config."""
    config = _config(config_file)
    if config.get("input_unit_norm"):
        raise InvalidValueError(f"the checkpoint {config_file.parent} normalises its input, which the release never "
                                "undoes.")
    width = _whole(config_file, "d_in")
    if config.get("num_latents"):
        return _whole(config_file, "num_latents"), width
    return width * (_whole(config_file, "expansion_factor") if "expansion_factor" in config else 32), width


def _whole(config_file: Path, key: str) -> int:
    value = _config(config_file).get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise InvalidValueError(f"{config_file} has no valid {key} ({shown(value)}).")
    return value


def _config(config_file: Path) -> dict[str, Any]:
    try:
        return read_json(config_file)
    except FileFault as fault:
        raise fault.about(config_file).as_error() from None


def _layout(n: int, width: int) -> dict[str, tuple[int, ...]]:
    return {"encoder.weight": (n, width), "encoder.bias": (n,), "W_dec": (n, width), "b_dec": (width,)}
