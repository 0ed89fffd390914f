"""Concept Ablation (Kumari et al., ICCV 2023): under the target's prompt, predict what the anchor's prompt predicts.

L = |e(z_t, c*) - sg e(z_t, c)|^2 on noised images that the model itself drew from anchor prompts c; c* names the
target concept as well. Released code: diffusers/train.py (`model-based`, or `noise-based`: the noise is the target;
with prior preservation: the noise under c). There images go through the VAE and are cropped and scaled at random; here
the latents are used as they were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.conditions import condition, unconditional
from harness.errors import InvalidValueError
from harness.finetune import (
    FineTuned,
    PartialDenoising,
    WorkingCopy,
    check_concepts,
    draw_noise,
    frozen_denoise,
    optimise,
    parameter_names,
)
from harness.interruption import Carried
from harness.method import Artifact, Progress, Trained
from harness.settings import check_choice, check_file, check_integer, check_number
from harness.training import derived_seed, file_hash, frozen_denoiser, missing_file, read_prompts

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models import LoadedModel

PROMPT, CONCEPT = "{prompt}", "{concept}"


def target_prompt(prompt: str, concept: str, template: str, anchor: str | None) -> str:
    """Name the concept in an anchor prompt: in place of `anchor` (release: object), else by the template (style)."""
    if anchor is not None:
        return prompt.replace(anchor, concept)
    return template.replace(PROMPT, prompt).replace(CONCEPT, concept)


@dataclass(frozen=True)
class AnchorImages:
    """The model's own pictures: latents (N, C, H, W), float32 on the CPU, and the prompt of each."""

    latents: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(FineTuned):
    """Turn `concept` (several: one drawn for each picture) into what the anchor prompts show.

    Anchor prompts are `anchor_prompts`, a list, or the rows without category of `prompts_file`, a CSV file. `anchor`
    is the word that the concept replaces; null: `templates` name the concept. `prior_weight` zero: no preservation.
    """

    concept: str | Sequence[str]
    anchor_prompts: Sequence[str] = ()
    prompts_file: str | None = None
    anchor: str | None = None
    templates: Sequence[str] = ("{prompt}, in the style of {concept}", "in {concept}'s style, {prompt}")
    loss: str = "model"
    prior_weight: float = 1.0
    images: int = 1000
    steps: int = 50
    guidance_scale: float = 7.5
    parameters: str = "x_strict"
    iterations: int = 400
    learning_rate: float = 3.2e-5
    weight_decay: float = 1e-2
    max_grad_norm: float | None = 1.0
    batch: int = 4
    name: str = "concept_ablation"

    kind: ClassVar[str] = "concept_ablation"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("concept", check_concepts(self.concept))
        given = self.anchor_prompts
        self._set("anchor_prompts", check_concepts(given, "method.anchor_prompts") if given else ())
        check_file("method.prompts_file", self.prompts_file)
        if bool(self.anchor_prompts) == bool(self.prompts_file):
            raise InvalidValueError("method.anchor_prompts (a list) or prompts_file (CSV) is needed, not both.")
        self._set("templates", check_concepts(self.templates, "method.templates"))
        if not all(CONCEPT in template for template in self.templates):
            raise InvalidValueError(f"method.templates={list(self.templates)}: each needs the word {CONCEPT}.")
        check_choice("method.loss", self.loss, ("model", "noise"))
        check_integer("method.images", self.images, 1, 1_000_000)
        check_integer("method.steps", self.steps, 1, 1000)
        self._set("prior_weight", check_number("method.prior_weight", self.prior_weight, 0, 1e6))
        self._set("guidance_scale", check_number("method.guidance_scale", self.guidance_scale, 1, 100))

    def params(self) -> dict[str, Any]:
        return super().params() | ({"prompts_file": file_hash(self.prompts_file)} if self.prompts_file else {})

    def missing(self) -> str | None:
        return missing_file(self.prompts_file) if self.prompts_file else None

    def texts(self) -> list[str]:
        """Return the anchor prompts. Raises InvalidValueError where the word that is replaced is in none of them."""
        texts = list(self.anchor_prompts)
        if self.prompts_file:
            texts = [row.prompt for row in read_prompts(self.prompts_file) if not row.category]
        if self.anchor is not None:
            texts = [text for text in texts if self.anchor in text]
        if not texts:
            where = self.prompts_file or "method.anchor_prompts"
            raise InvalidValueError(f"{where}: there is no anchor prompt" +
                                    (f" with the word '{self.anchor}'." if self.anchor else " without category."))
        return texts

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        import torch

        generator = torch.Generator().manual_seed(derived_seed("concept_ablation", self.seed))
        with frozen_denoiser(model):
            images = self._draw_images(model, generator, progress)
            copy = WorkingCopy(model, parameter_names(model.denoiser, self.parameters))
            order = torch.full((self.images + self.batch,), -1)
            batches = self._batches(images, generator, order)
            losses = optimise(copy, self, lambda step: self._loss(model, copy, next(batches), generator), progress,
                              carried=Carried(generator, drawn={"order": order}))
        return Trained(copy.deltas(), {"losses": losses, "images": self.images})

    def _draw_images(self, model: LoadedModel, generator: Generator, progress: Progress) -> AnchorImages:
        """Draw pictures of the anchor prompts, round robin."""
        import torch

        texts = self.texts()
        prompts = tuple(texts[n % len(texts)] for n in range(self.images))
        sampling = PartialDenoising(model.scheduler("ddim"), self.steps, self.guidance_scale)
        kept = []
        for first in range(0, self.images, self.batch):
            c = condition(model, prompts[first : first + self.batch])
            noise = draw_noise(model, len(c), generator)
            u = unconditional(model, len(c))
            kept.append(sampling.run(frozen_denoise(model), noise, c, u, self.steps).cpu())
            progress(f"{self.name}: anchor images", first + len(c), self.images)
        return AnchorImages(torch.cat(kept), prompts)

    def _batches(self, images: AnchorImages, generator: Generator, order: Tensor) -> Iterator[AnchorImages]:
        """Yield batches without end, shuffled anew in every round; `order` holds what comes next, then -1."""
        import torch

        while True:
            coming = order[order >= 0]
            while len(coming) < self.batch:
                coming = torch.cat([coming, torch.randperm(self.images, generator=generator)])
            picked = coming[: self.batch].tolist()
            order.fill_(-1)[: len(coming) - self.batch] = coming[self.batch :]
            yield AnchorImages(images.latents[picked], tuple(images.prompts[index] for index in picked))

    def _loss(self, model: LoadedModel, copy: WorkingCopy, batch: AnchorImages, generator: Generator) -> Tensor:
        import torch

        scheduler = model.scheduler("ddpm")
        z_0 = batch.latents.to(model.device)
        noise = draw_noise(model, len(z_0), generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z_0),), generator=generator).to(model.device)
        z = scheduler.add_noise(z_0, noise, t)
        c = condition(model, batch.prompts)
        named = condition(model, [self._named(prompt, generator) for prompt in batch.prompts])
        truth = scheduler.get_velocity(z_0, noise, t) if model.prediction_type == "v_prediction" else noise
        with torch.no_grad():
            goal = copy.denoise(z, t, c) if self.loss == "model" else truth
        loss = (copy.denoise(z, t, named) - goal).square().mean()
        if self.prior_weight:
            loss = loss + self.prior_weight * (copy.denoise(z, t, c) - truth).square().mean()
        return loss

    def _named(self, prompt: str, generator: Generator) -> str:
        import torch

        concept, template = (values[int(torch.randint(len(values), (1,), generator=generator))]
                             for values in (self.concept, self.templates))
        return target_prompt(prompt, concept, template, self.anchor)
