"""A batch of items in, images out, with methods attached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import IncompatibleError
from harness.method import Artifact, Method, Refusal, check_composition
from harness.models.families import Batch, kin_of
from harness.models.text_encoder_identity import loaded_encoders
from harness.records import TRUNCATED, GenerationSettings, ImageItem, Status
from harness.sampling.artifact_content import content_of
from harness.sampling.denoiser import DenoiserHook, PipelineCall, hooked
from harness.sampling.plain_calls import PlainCalls, acting_on_calls
from harness.sampling.texts import bundle_of

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

__all__ = ["Generated", "Session", "attached", "initial_noise"]


@dataclass(frozen=True)
class Generated:
    """What became of one item. `image` is (H, W, 3) uint8, None unless `status` is ok; methods set `flags`."""

    image: np.ndarray | None
    status: Status
    flags: tuple[str, ...] = ()


@contextmanager
def attached(model: LoadedModel, methods: Sequence[Method], artifacts: Sequence[Artifact | None]
             ) -> Iterator[Session]:
    """Attach methods left to right and yield a session. Leaving restores every byte and removes every hook.

    Plain calls of the model's pipeline follow the methods, too, or are refused.
    """
    check_composition(methods)
    for method, artifact in zip(methods, artifacts, strict=True):
        _check_artifact(model, method, artifact)
    with ExitStack() as stack:
        stack.callback(model.forget_texts)
        for method, artifact in zip(methods, artifacts, strict=True):
            stack.enter_context(method.attach(model, artifact))
        model.forget_texts()
        hook = stack.enter_context(hooked(model, methods, artifacts))
        session = Session(model, methods, hook, content_of(artifacts))
        if kin_of(model).plain_calls:
            stack.enter_context(acting_on_calls(session.calls))
        yield session


def _check_artifact(model: LoadedModel, method: Method, artifact: Artifact | None) -> None:
    if artifact is None:
        if method.trains:
            raise IncompatibleError(f"method {method.name} needs its trained artifact, but has none.")
        return
    base = artifact.meta.get("base", {}).get("weights")
    learned = artifact.meta.get("text_encoders")
    if base != model.fingerprint and method.transfers and learned:
        if loaded_encoders(model)[: len(learned)] != learned:
            raise IncompatibleError(f"the artifact of method {method.name} was trained with a different text encoder "
                                    "from the loaded one.")
    elif base != model.fingerprint:
        raise IncompatibleError(f"the artifact of method {method.name} was trained on weights "
                                f"{str(base)[:12]}, but the loaded ones are {model.fingerprint[:12]}.")


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> tuple[Tensor, list[Generator]]:
    """Draw each image's latent (C, h, w) from its own fp32 CPU generator; return them with the generators.

    The generators continue to serve schedulers that add noise. torch uses the low 32 bits of a seed.
    """
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise = [torch.randn(1, *shape, generator=generator, dtype=torch.float32) for generator in generators]
    return torch.cat(noise), generators


class Session:
    """Generates batches with the methods that are attached."""

    def __init__(self, model: LoadedModel, methods: Sequence[Method], hook: DenoiserHook,
                 artifact: str | None = None) -> None:
        self.artifact = artifact
        self.model = model
        self.methods = tuple(methods)
        self.hook = hook

    @cached_property
    def calls(self) -> PlainCalls:
        """What serves plain calls of the pipeline."""
        return PlainCalls(self.model, self.hook, self._prompts, self._post)

    def generate(self, items: Sequence[ImageItem], settings: GenerationSettings) -> list[Generated]:
        """Make one image per item, as one batch. Images of prompts that the tokenizer cuts are flagged `truncated`.

        Refused items never reach the denoiser; the first accepted one stands in for them and keeps the batch's shape.
        """
        answers = self._prompts(items)
        accepted = [answer for answer in answers if isinstance(answer, ImageItem)]
        if not accepted:
            return [_refused(answer) for answer in answers if isinstance(answer, Refusal)]
        batch = [answer if isinstance(answer, ImageItem) else accepted[0] for answer in answers]
        drawing = self._drawing(batch, settings)
        images = self._images(self._drawn(drawing), drawing)
        finished = self._post([image for image in images if image is not None])
        results = []
        for answer, image in zip(answers, images, strict=True):
            made = next(finished) if image is not None else Generated(None, Status.ERROR, ("not_finite",))
            results.append(_refused(answer) if isinstance(answer, Refusal) else self._flagged(answer, made))
        return results

    def _flagged(self, item: ImageItem, made: Generated) -> Generated:
        return replace(made, flags=(*made.flags, TRUNCATED)) if self.model.is_truncated(item.prompt) else made

    def _prompts(self, items: Sequence[ImageItem]) -> list[ImageItem | Refusal]:
        answers: list[ImageItem | Refusal] = list(items)
        for method in self.methods:
            kept = [(index, item) for index, item in enumerate(answers) if isinstance(item, ImageItem)]
            changed = method.prompts([item for _, item in kept])
            for (index, _), answer in zip(kept, changed, strict=True):
                answers[index] = answer
        return answers

    def _drawing(self, items: Sequence[ImageItem], settings: GenerationSettings) -> Batch:
        shape = kin_of(self.model).noise_shape(self.model, settings.height, settings.width)
        noise, generators = initial_noise([item.seed for item in items], shape)
        return Batch(items, bundle_of(self.model, items), noise, generators, settings)

    def _drawn(self, batch: Batch) -> Tensor:
        call = PipelineCall(batch.items, batch.bundle, batch.settings.num_inference_steps)
        with self.hook.running(call):
            return kin_of(self.model).draw(self.model, batch)

    def _latents(self, items: Sequence[ImageItem], settings: GenerationSettings) -> Tensor:
        """Return the latents of a batch, before anything decodes them."""
        return self._drawn(self._drawing(items, settings))

    def _images(self, latents: Tensor, batch: Batch) -> list[np.ndarray | None]:
        """Return the images of latents; None if a pixel is not finite."""
        import torch

        with torch.no_grad():
            pixels = kin_of(self.model).decode(self.model, latents, batch)
        return [(image * 255).round().astype(np.uint8) if np.isfinite(image).all() else None for image in pixels]

    def _post(self, images: Sequence[np.ndarray]) -> Iterator[Generated]:
        made = [Generated(image, Status.OK) for image in images]
        for method in self.methods:
            kept = [(index, one.image) for index, one in enumerate(made) if one.image is not None]
            answers = method.post([image for _, image in kept])
            for (index, _), answer in zip(kept, answers, strict=True):
                made[index] = _filtered(made[index], answer)
        return iter(made)


def _filtered(made: Generated, answer: tuple[np.ndarray, tuple[str, ...]] | Refusal) -> Generated:
    if isinstance(answer, Refusal):
        return Generated(None, Status.REFUSED, (*made.flags, answer.reason))
    image, flags = answer
    return replace(made, image=image, flags=made.flags + flags)


def _refused(answer: Refusal) -> Generated:
    return Generated(None, Status.REFUSED, (answer.reason,))
