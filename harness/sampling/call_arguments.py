"""What a plain call of a pipeline asks for: its arguments as the items of a batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import BoundArguments, signature
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError, InvalidValueError
from harness.lib.hashing import text_hash
from harness.records import ImageItem, ImageKey

if TYPE_CHECKING:
    from torch import Generator, Tensor

FURTHER_TEXTS = ("prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3")  # for further text encoders
TEXTS = ("prompt", "negative_prompt", *FURTHER_TEXTS)
EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
ATTENTION = ("cross_attention_kwargs", "joint_attention_kwargs")
UNSUPPORTED = ("ip_adapter_image", "ip_adapter_image_embeds", "negative_ip_adapter_image",
               "negative_ip_adapter_image_embeds", "clip_skip", "skip_guidance_layers")  # fmt: skip


@dataclass(frozen=True)
class EmbeddedItem:
    """An image whose pipeline is given embeddings: an ImageItem without texts, which refuses to name them."""

    key: ImageKey
    seed: int
    guidance_scale: float
    category: tuple[str, ...] = ()
    size: tuple[int, int] | None = None

    @property
    def prompt(self) -> str:
        raise needs_text("a method")

    @property
    def negative_prompt(self) -> str:
        raise needs_text("a method")


def needs_text(who: str) -> IncompatibleError:
    """Build the error for a call that tells a method no text."""
    return IncompatibleError(f"{who} reads the prompt itself, and this call gives embeddings, or other texts for "
                             "further text encoders.", "Pass prompt=, and negative_prompt= if there is one.")


@dataclass(frozen=True)
class CallArguments:
    """The arguments of one call by name, defaults filled in; `given` are those that the caller named."""

    bound: BoundArguments
    given: frozenset[str]

    @classmethod
    def of(cls, call: Callable[..., Any], pipe: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallArguments:
        """Read the arguments of `call`, a pipeline's own. Raises TypeError where it does not take them."""
        bound = signature(call).bind(pipe, *args, **kwargs)
        given = frozenset(bound.arguments)
        bound.apply_defaults()
        return cls(bound, given)

    def get(self, name: str) -> Any:
        """Return an argument's value, None where the pipeline has no such argument."""
        return self.bound.arguments.get(name)

    @property
    def guidance_scale(self) -> float:
        return float(self.get("guidance_scale"))

    @property
    def n_steps(self) -> int:
        own = next((steps for name in ("timesteps", "sigmas") if (steps := self.get(name)) is not None), None)
        return int(self.get("num_inference_steps")) if own is None else len(own)

    @property
    def is_text(self) -> bool:
        """Return whether one text an image says all that the pipeline is told: no embeddings, no other texts."""
        prompt, negative = self.get("prompt"), self.get("negative_prompt")
        others = [(self.get(name), negative if name.startswith("negative") else prompt) for name in FURTHER_TEXTS]
        return (prompt is not None and all(self.get(name) is None for name in EMBEDS)
                and all(other is None or other == text for other, text in others))

    def told(self, texts: Mapping[str, Any]) -> None:
        """Give the pipeline embeddings, a row for every image, in place of its texts."""
        for name in TEXTS:
            if name in self.bound.arguments:
                self.bound.arguments[name] = None
        self.bound.arguments.update(texts, num_images_per_prompt=1)

    def problem(self, edits_direction: bool) -> IncompatibleError | None:
        """Return the error for what methods cannot act on, None if there is nothing."""
        given = next((name for name in UNSUPPORTED if self.get(name) is not None), None)
        if given:
            return IncompatibleError(f"{given}= is not supported while a method is applied to the pipeline.",
                                     f"Leave {given} out.")
        scaled = next((name for name in ATTENTION if "scale" in (self.get(name) or {})), None)
        if scaled:
            return IncompatibleError(f"{scaled}={{'scale': ...}} is not supported while a method is applied.",
                                     "Set the LoRA's weight first: pipe.set_adapters(names, weights), or fuse it.")
        if edits_direction and self.get("guidance_rescale"):
            return IncompatibleError("guidance_rescale is not supported with a method that edits the guidance "
                                     "direction.", "Leave guidance_rescale out.")
        if (self.get("true_cfg_scale") or 0) > 1 and self.get("negative_prompt") is not None:
            return IncompatibleError("true_cfg_scale with a negative prompt is not supported while a method is "
                                     "applied.",
                                     "Leave negative_prompt out.")
        return None

    @property
    def prompts(self) -> list[str]:
        """Return the prompts. Raises InvalidValueError for what is neither a text nor a list of texts."""
        prompt = self.get("prompt")
        texts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidValueError(f"prompt={str(prompt)[:80]!r}: expected a text, or a list of texts.")
        return texts

    @property
    def negatives(self) -> list[str | None]:
        """Return each prompt's negative prompt. Raises InvalidValueError where there are more or fewer."""
        given, count = self.get("negative_prompt"), len(self.prompts)
        if not isinstance(given, list):
            return [given] * count
        if len(given) != count:
            raise InvalidValueError(f"{len(given)} negative prompts for {count} prompts.", "Give one for each prompt.")
        return given

    def items(self, device: Any, seen: Counter[str]) -> list[Any]:
        """Return an item for every image, in order; `seen` counts the images of each prompt over calls."""
        repeats = int(self.get("num_images_per_prompt") or 1)
        if self.is_text:
            texts = [pair for pair in zip(self.prompts, self.negatives, strict=True) for _ in range(repeats)]
            names = [text_hash(prompt)[:16] for prompt, _ in texts]
        else:
            names = [name for name in self._embeds_names() for _ in range(repeats)]
            texts = []
        seeds = seeds_of(self.get("generator"), self.get("latents"), len(names), device)
        keys = [ImageKey(name, _next(seen, name)) for name in names]
        w = self.guidance_scale
        if not texts:
            return [EmbeddedItem(key, seed, w) for key, seed in zip(keys, seeds, strict=True)]
        return [ImageItem(key, prompt, seed, w, negative_prompt=negative)
                for key, seed, (prompt, negative) in zip(keys, seeds, texts, strict=True)]

    def _embeds_names(self) -> list[str]:
        embeds = self.get("prompt_embeds")
        if embeds is None:
            return [text_hash(prompt)[:16] for prompt in self.prompts]
        return [hashlib.sha256(_bytes(row)).hexdigest()[:16] for row in embeds]


def _next(seen: Counter[str], name: str) -> int:
    seen[name] += 1
    return seen[name] - 1


def seeds_of(generator: Generator | list[Generator] | None, latents: Tensor | None, count: int, device: Any
             ) -> list[int]:
    """Return what stands for the seed of each of `count` images, which methods that draw by image draw by.

    That of its own generator, where it is as fresh as `manual_seed` leaves it; else a hash of where its noise is from.
    """
    own = list(generator) if isinstance(generator, (list, tuple)) else [generator] * (count == 1)
    if len(own) == count and all(one is not None for one in own):
        return [_seed(one) for one in own]
    if generator is not None and not isinstance(generator, (list, tuple)):
        source = _bytes(generator.get_state())
    else:
        source = _bytes(latents) if latents is not None else _bytes(_global_state(device))
    return [_hashed(source + index.to_bytes(8, "big")) for index in range(count)]


def _seed(generator: Any) -> int:
    import torch

    seed, state = generator.initial_seed(), generator.get_state()
    fresh = torch.Generator(generator.device).manual_seed(seed).get_state()
    return seed % 2**64 if torch.equal(fresh, state) else _hashed(_bytes(state))


def _global_state(device: Any) -> Tensor:
    import torch

    return torch.cuda.get_rng_state(device) if str(device).startswith("cuda") else torch.get_rng_state()


def _hashed(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _bytes(values: Tensor) -> bytes:
    import torch

    return values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
