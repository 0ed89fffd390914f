"""Concept Steerers (Kim & Ghadiyaram, 2025), loaded: a k-sparse autoencoder's reading of a concept steers the text.

At the output x (L, D) of one text encoder layer, read for the concept's own sentence, the steering vector is
d = relu(A (x - b_pre) + b_lat) D^T (L, D), without the top-k of training. The layer's output becomes x + strength d for
the prompt. The released script also adds -strength d to the negative prompt's; `negative_row` keep is the paper's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from harness.errors import InvalidValueError
from harness.lib.torch_headers import content_of
from harness.method import Artifact, EmbedBundle, Progress, StepContext, Trained
from harness.models.part_tensors import base_shapes
from harness.setting_types import Text
from harness.training.published import CheckpointMethod, check_layout, finite, read_checkpoint
from harness.training.weight_edits import check_family, check_fit

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

CONFIG, WEIGHTS = "config.json", "state_dict.pth"


def steering(x: Tensor, encoder: Tensor, decoder: Tensor, pre_bias: Tensor, latent_bias: Tensor) -> Tensor:
    """Return d (L, D) for x (L, D): encoder (N, D), decoder (D, N), pre_bias (D), latent_bias (N)."""
    return ((x - pre_bias) @ encoder.T + latent_bias).relu() @ decoder.T


@dataclass(frozen=True)
class ConceptSteerers(CheckpointMethod):
    """A folder of the release (config.json, state_dict.pth). strength: -0.5 erases nudity, as released."""

    concept: Text = ""
    strength: Annotated[float, Ge(-100), Le(100)] = -0.5
    layer: Annotated[int, Ge(0), Le(100)] = 9
    negative_row: Literal["subtract", "keep"] = "subtract"
    name: str = "concept_steerers"

    kind: ClassVar[str] = "concept_steerers"
    reads_prompts: ClassVar[bool] = True
    file_names: ClassVar[tuple[str, ...]] = (WEIGHTS,)
    beside: ClassVar[tuple[str, ...]] = (CONFIG,)
    how_to_get: ClassVar[str] = (
        "Train one with https://github.com/kim-dahye/steerers (scripts/train_sd14_i2p.sh), or download the "
        "authors' via its links: a folder with config.json and state_dict.pth."
    )

    @property
    def trains(self) -> bool:
        return bool(self.strength)

    def training_identity(self) -> dict[str, Any]:
        params = {key: self.params()[key] for key in ("checkpoint", "concept", "layer")}
        return {"kind": self.kind, "version": self.version, "params": params}

    def files(self) -> list[Path]:
        return [path / name for path in self.paths for name in (WEIGHTS, CONFIG)]

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "the CLIP text encoder that its autoencoder was made for")
        self.check_contents(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        file, shapes = self.files()[0], base_shapes(model_config, "text_encoder")
        state = _state(file, content_of(file))
        if shapes is not None:
            check_layout(file, state, _layout(state, shapes["embeddings.token_embedding.weight"][-1]))
            _depth_check(self.layer, len({name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}))

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        self.require()
        kept: list[Tensor] = []
        layer = self._layer(model)
        with _edited(layer, lambda output: kept.append(output.detach())):
            _encode(model, self.concept)
        x = kept[0][0].float()
        weights = self._autoencoder(x.shape[-1])
        d = steering(x.cpu(), weights["encoder.weight"], weights["decoder.weight"], weights["pre_bias"],
                     weights["latent_bias"])
        progress("steering vector", 1, 1)
        return Trained({"steering": d}, {"losses": [], "norm": float(d.norm())})

    def _autoencoder(self, width: int) -> dict[str, Tensor]:
        file = self.files()[0]
        content, _ = read_checkpoint(file)
        state = _state(file, content)
        check_layout(file, state, _layout(state, width))
        finite(file, state)
        return {name: value.float() for name, value in state.items()}

    def _layer(self, model: LoadedModel) -> Any:
        encoder = model.pipe.text_encoder
        layers = getattr(encoder, "text_model", encoder).encoder.layers
        _depth_check(self.layer, len(layers))
        return layers[self.layer]

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        if ctx.artifact is None or not self.strength:
            return bundle
        if not ctx.state:
            check_fit(ctx.artifact.tensors, {"steering": tuple(ctx.model.embed("").shape)})
            self._remember_shifts(ctx, ctx.artifact.tensors["steering"])
        uncond = bundle.uncond.float() + ctx.state["uncond"] if self.negative_row == "subtract" else bundle.uncond
        cond = bundle.cond.float() + ctx.state["cond"]
        return replace(bundle, cond=cond.to(bundle.cond.dtype), uncond=uncond.to(bundle.uncond.dtype))

    def _remember_shifts(self, ctx: StepContext, d: Tensor) -> None:
        """Encode every text again with its layer steered; keep what that changes, so that other edits add up."""
        scaled = (self.strength * d).to(ctx.model.device)
        ctx.state["cond"] = self._shift(ctx.model, [item.prompt for item in ctx.items], scaled)
        if self.negative_row == "subtract":
            ctx.state["uncond"] = self._shift(ctx.model, [item.negative_prompt or "" for item in ctx.items], -scaled)

    def _shift(self, model: LoadedModel, texts: Sequence[str], scaled: Tensor) -> Tensor:
        import torch

        with _edited(self._layer(model), lambda output: (output.float() + scaled).to(output.dtype)):
            steered = {text: _encode(model, text) for text in dict.fromkeys(texts)}
        return torch.stack([steered[text].float() - model.embed(text).float() for text in texts])


def _state(file: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the autoencoder's tensors in a file. Raises InvalidValueError where it is another kind of file."""
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise InvalidValueError(f"the checkpoint {file} does not fit: it has no state_dict.")
    return state


def _layout(state: Mapping[str, Any], width: int) -> dict[str, tuple[int, ...]]:
    shape = tuple(getattr(state.get("latent_bias"), "shape", ()))
    n = shape[0] if shape else 0
    return {"encoder.weight": (n, width), "decoder.weight": (width, n), "pre_bias": (width,), "latent_bias": (n,),
            "stats_last_nonzero": (n,)}  # fmt: skip


def _depth_check(layer: int, depth: int) -> None:
    if layer >= depth:
        raise InvalidValueError(f"method.layer={layer}: the text encoder has layers 0 to {depth - 1}.")


def _encode(model: LoadedModel, text: str) -> Tensor:
    """Return the embedding (L, D) of a text, not from the cache."""
    import torch

    with torch.no_grad():
        embeds, _ = model.pipe.encode_prompt(text, model.device, 1, do_classifier_free_guidance=False)
    result: Tensor = embeds[0]
    return result


@contextmanager
def _edited(layer: Any, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Pass a text layer's output (B, L, D) through `edit`; None leaves it alone."""

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        edited = edit(states)
        if edited is None:
            return None
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
