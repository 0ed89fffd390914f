"""Text conditioning of a denoiser: embeddings and, if the family has them, pooled ones and image sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


@dataclass(frozen=True)
class Condition:
    """The conditioning of a batch's rows: `embeds` (B, L, D) and, for sdxl, `pooled` (B, P)."""

    embeds: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeds)

    def __getitem__(self, rows: slice) -> Condition:
        return self.each(lambda value: value[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """Return this with both tensors passed through `change`."""
        return Condition(change(self.embeds), None if self.pooled is None else change(self.pooled))

    def repeated(self, count: int) -> Condition:
        """Return `count` rows of a condition that has one."""
        return self.each(lambda value: value.expand(count, *value.shape[1:]))


@dataclass(frozen=True)
class EmbedBundle:
    """Text embeddings of a batch: `cond`, `uncond` (B, L, D); pooled ones (B, P) where the family has them.

    A model without an unconditional branch has zeros for it.
    """

    cond: Tensor
    uncond: Tensor
    pooled_cond: Tensor | None = None
    pooled_uncond: Tensor | None = None


@dataclass(frozen=True)
class ExtraRow:
    """One more denoiser row per image: `embeds` (L, D), shared by the batch, or (B, L, D). A role runs once."""

    role: str
    embeds: Tensor
    pooled: Tensor | None = None


def condition(model: LoadedModel, texts: Sequence[str]) -> Condition:
    """Return what `texts` tell the denoiser, in order, in float32."""
    return encoded_condition(model, texts).each(lambda value: value.float())


def negative_condition(model: LoadedModel, texts: Sequence[str | None]) -> Condition:
    """Return what negative prompts tell the unconditional row, in the model's own precision.

    None is no negative prompt: the empty text, or zeros where the pipeline forces them (stock SDXL, pooled ones too).
    A negative prompt that is given is encoded, the empty one as well.
    """
    import torch

    encoded = encoded_condition(model, [text or "" for text in texts])
    if not model.forces_zeros:
        return encoded
    absent = torch.tensor([text is None for text in texts], device=model.device)
    return encoded.each(lambda value: value.masked_fill(absent.view(-1, *[1] * (value.ndim - 1)), 0))


def unconditional(model: LoadedModel, count: int) -> Condition:
    """Return `count` rows of what guidance starts from when there is no negative prompt, in float32."""
    return negative_condition(model, [None]).each(lambda value: value.float()).repeated(count)


def encoded_condition(model: LoadedModel, texts: Sequence[str]) -> Condition:
    """Return what `texts` tell the denoiser, in order, in the model's own precision."""
    import torch

    pairs = [(model.embed(text), model.pooled(text)) for text in texts]
    pooled = [vector for _, vector in pairs if vector is not None]
    return Condition(torch.stack([embeds for embeds, _ in pairs]), torch.stack(pooled) if pooled else None)


def told(given: Condition | Tensor) -> Condition:
    """Return `given` as a condition."""
    return given if isinstance(given, Condition) else Condition(given)


def joined(*parts: Any) -> Any:
    """Return the rows of conditions, or of tensors, one after the other."""
    import torch

    if not isinstance(parts[0], Condition):
        return torch.cat(parts)
    pooled = [part.pooled for part in parts]
    return Condition(torch.cat([part.embeds for part in parts]), None if pooled[0] is None else torch.cat(pooled))


def denoiser_inputs(model: LoadedModel, z: Tensor, given: Condition | Tensor) -> dict[str, Any]:
    """Return the keyword arguments with which the denoiser reads `given` for latents `z` (B, C, h, w).

    SDXL's time ids say that the image has the size of z, uncropped, as its stock pipeline does.
    """
    rows = told(given)
    inputs: dict[str, Any] = {"encoder_hidden_states": rows.embeds}
    if rows.pooled is not None:
        inputs["added_cond_kwargs"] = {"text_embeds": rows.pooled, "time_ids": time_ids(model, z).to(rows.pooled.dtype)}
    return inputs


def time_ids(model: LoadedModel, z: Tensor) -> Tensor:
    """Return (B, 6): original height and width, top and left crop, target height and width, in pixels."""
    height, width = (side * model.pipe.vae_scale_factor for side in z.shape[-2:])
    return z.new_tensor([height, width, 0, 0, height, width]).expand(len(z), 6)
