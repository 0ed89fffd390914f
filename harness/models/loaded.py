"""A model in memory: a pipeline, what names its weights, and the texts that it has encoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.models.index import FORCED_ZEROS

if TYPE_CHECKING:
    import torch

    from harness.records import ImageItem

Config = Mapping[str, Any]

# Class in diffusers, and settings without which a scheduler of another kind would run another algorithm.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "steps_offset": 1}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
CACHED_TEXTS = 256  # 60 MB of SD 1 embeddings


class Kin(Protocol):
    """What a loaded model asks of its family; harness.models.families.base.Family is one."""

    @property
    def part(self) -> str: ...
    def encode(self, model: LoadedModel, text: str) -> tuple[torch.Tensor, torch.Tensor | None]: ...
    def text_limits(self, model: LoadedModel) -> list[tuple[Any, int]]: ...


@dataclass
class LoadedModel:
    """A pipeline in memory. `fingerprint` names its weights; `roles` says what each row of the running call is.

    Module hooks also see its `items` (row r is of item r % len(items)) and its `moment`, the share of the trajectory
    that is behind, in [0, 1). Outside of a pipeline call roles and items are empty. While a method trains on it,
    `training_folder` is where the training may keep checkpoints. `later` are the pipelines of further stages.

    Embeddings are made one text at a time, so their bytes never depend on which texts share a batch.
    """

    pipe: Any
    config: Config
    family: str
    prediction_type: str
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    kin: Kin
    roles: tuple[str, ...] = ()
    items: tuple[ImageItem, ...] = ()
    moment: float = 0.0
    training_folder: Path | None = None
    later: tuple[Any, ...] = ()
    _texts: OrderedDict[str, tuple[torch.Tensor, torch.Tensor | None]] = field(default_factory=OrderedDict, repr=False)

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipe, self.kin.part)

    @property
    def forces_zeros(self) -> bool:
        """Return whether the pipeline zeroes the unconditional embeddings when there is no negative prompt (SDXL)."""
        return bool(self.pipe.config.get(FORCED_ZEROS, False))

    def embed(self, text: str) -> torch.Tensor:
        """Return the embedding (L, D) of one text; the same tensor each time while it is cached.

        SDXL's D holds the channels of both text encoders, the first one's first.
        """
        return self._encoded(text)[0]

    def pooled(self, text: str) -> torch.Tensor | None:
        """Return the pooled embedding (P,) of one text where the family has one (sdxl), cached likewise."""
        return self._encoded(text)[1]

    def _encoded(self, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        if text not in self._texts:
            with torch.no_grad():
                self._texts[text] = self.kin.encode(self, text)
            while len(self._texts) > CACHED_TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(text)
        return self._texts[text]

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings (N, L, D) of `texts`, in order."""
        import torch

        return torch.stack([self.embed(text) for text in texts])

    def is_truncated(self, text: str) -> bool:
        """Return whether a text encoder reads only the beginning of `text`."""
        return any(len(tokenizer(text, truncation=False, verbose=False).input_ids) > limit
                   for tokenizer, limit in self.kin.text_limits(self))

    def forget_texts(self) -> None:
        """Drop cached embeddings: the text encoder or tokenizer has changed."""
        self._texts.clear()

    @contextmanager
    def float32_texts(self) -> Iterator[None]:
        """Encode texts in float32 inside, whatever the model's dtype; weights come back to the bit.

        For closed forms, which divide by what half precision rounds away.
        """
        import torch

        parts = [getattr(self.pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
        halves = [(part, part.dtype) for part in parts if part is not None and part.dtype != torch.float32]
        if not halves:
            yield
            return
        kept, self._texts = self._texts, OrderedDict()
        try:
            for part, _ in halves:
                part.float()
            yield
        finally:
            for part, dtype in halves:
                part.to(dtype)
            self._texts = kept

    def scheduler(self, name: str | None = None) -> Any:
        """Return a fresh scheduler: of the pipeline's own kind, or `name` with the pipeline's noise schedule."""
        return make_scheduler(self.pipe.scheduler, name)


def make_scheduler(base: Any, name: str | None) -> Any:
    """Return a fresh scheduler with the noise schedule of `base`, of its own class or of the one named."""
    import diffusers

    if name is None:
        return type(base).from_config(base.config)
    class_name, settings = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(base.config, **settings)
