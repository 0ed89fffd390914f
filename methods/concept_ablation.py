"""Concept Ablation (Kumari et al., ICCV 2023): under the target's prompt, predict what the anchor's prompt predicts.

L = sum_C mean_mask |e(z_t, c*) - sg e(z_t, c)|^2 + prior_weight |e(z'_t', c') - n'|^2 on images that the model itself
drew from anchor prompts c; c* names the target concept as well, and e is the model that is trained, on both sides.
Prior preservation has its own images, timesteps and noise. Keys and values of the begin token pass no gradient.
Released code: diffusers/train.py (`model-based`, or `noise-based`: the noise is the target), whose velocity models get
noise as the prior's target where ours get the velocity; images, frames and mask: methods/anchor_images.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

from harness.declared import Values
from harness.errors import InvalidValueError
from harness.method import Artifact, Progress, Trained
from harness.models.conditions import condition
from harness.models.loaded import SCHEDULERS
from harness.setting_types import (
    BatchSize,
    FilePath,
    GuidanceOn,
    Images,
    Iterations,
    LearningRate,
    Must,
    OneOf,
    OneOrMore,
    Scale,
    Steps,
    Text,
    Texts,
    WeightDecay,
)
from harness.training.fine_tuning import FineTuned, GradNorm, ParameterSet, WorkingCopy, optimise
from harness.training.frozen import frozen_denoiser
from harness.training.generated_images import TrainingImage, generate_images
from harness.training.loop_memory import Carried
from harness.training.prompts import (
    check_drawable,
    derived_seed,
    file_hash,
    missing_file,
    read_lines,
    read_prompts,
    without_ages,
)
from methods.anchor_images import (
    AnchorImages,
    begin_token_detached,
    draw_frame,
    encoded,
    frame_mask,
    framed,
    masked_error,
    sampled_by,
)
from methods.parameter_sets import PARAMETER_SETS

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

log = logging.getLogger(__name__)

PROMPT, CONCEPT = "{prompt}", "{concept}"
Template = Annotated[str, Must(f"a text with {CONCEPT}", f"texts with {CONCEPT}", lambda text: CONCEPT in text)]
Templates = Annotated[OneOrMore[Template], MinLen(1)]


def target_prompt(prompt: str, concept: str, template: str, anchor: str | None) -> str:
    """Name the concept in an anchor prompt: in place of `anchor` (release: object), else by the template."""
    if anchor is not None:
        return prompt.replace(anchor, concept)
    return template.replace(PROMPT, prompt).replace(CONCEPT, concept)


@dataclass(frozen=True)
class Batch:
    """What a step trains on: first the images to ablate in, with `masks`, then as many of the prior, if any."""

    pictures: Sequence[np.ndarray]  # (S, S, 3) float32 in [-1, 1]
    masks: Sequence[np.ndarray]
    named: Sequence[str]
    anchors: Sequence[str]
    prior: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(FineTuned):
    """Turn `concept` (several take turns over the images) into what the anchor prompts show.

    Anchor prompts are `anchor_prompts`, a list, or `prompts_file`: a CSV file, of which the rows without category, or
    a .txt file with one a line, as released. `anchor` is the word that the concept replaces; null: one of `templates`
    names it, drawn each time. `prior_weight` zero: no preservation. `negative`: the concepts are the negative prompt
    of the images. `learning_rate` is what Adam gets: the release multiplies its own by batch, GPUs and, with
    preservation, 2.
    """

    concept: Texts
    anchor_prompts: OneOrMore[Text] | None = ()
    prompts_file: FilePath | None = None
    anchor: str | None = None
    templates: Templates = ("{prompt}, in the style of {concept}", *2 * ("in {concept}'s style, {prompt}",))
    loss: Literal["model", "noise"] = "model"
    prior_weight: Scale = 1.0
    images: Images = 1000
    steps: Steps = 25
    scheduler: Annotated[str, OneOf(tuple(SCHEDULERS))] | None = "dpmsolver++"
    guidance_scale: GuidanceOn = 6.0
    negative: bool = False
    augment: bool = False
    flip: bool = True
    parameters: str = "x_strict"
    iterations: Iterations = 200
    learning_rate: LearningRate = 8e-6
    weight_decay: WeightDecay = 1e-2
    max_grad_norm: GradNorm | None = 1.0
    batch: BatchSize = 4
    name: str = "concept_ablation"

    kind: ClassVar[str] = "concept_ablation"
    parameter_sets: ClassVar[Mapping[str, ParameterSet]] = PARAMETER_SETS
    version: ClassVar[int] = 2  # 2: the release's loss, gradient, draws and images

    @classmethod
    def completed(cls, values: Values) -> Values:
        return values | {"anchor_prompts": values["anchor_prompts"] or ()}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drawable("method.concept", self.concept)
        if bool(self.anchor_prompts) == bool(self.prompts_file):
            raise InvalidValueError("set either method.anchor_prompts (a list) or prompts_file (a file).",
                                    "Set method.prompts_file=null to use a list.")

    def params(self) -> dict[str, Any]:
        return super().params() | ({"prompts_file": file_hash(self.prompts_file)} if self.prompts_file else {})

    def missing(self) -> str | None:
        if not self.prompts_file:
            return None
        problem = missing_file(self.prompts_file)
        if problem is None:
            self._listed(self.prompts_file)  # raises for a bad file
        return problem

    @staticmethod
    def _listed(path: str) -> list[str]:
        """Return the prompts of a text file with one a line, or of a table, those without category."""
        if Path(path).suffix.lower() == ".txt":
            return read_lines(path)
        return [row.prompt for row in read_prompts(path) if not row.category]

    def texts(self) -> list[str]:
        """Return the anchor prompts, less those that name an age beside a sexual concept.

        Raises InvalidValueError where none is left, or the word that is replaced is in none of them.
        """
        texts = list(self.anchor_prompts or ())
        if self.prompts_file:
            texts = self._listed(self.prompts_file)
        if self.anchor is not None:
            texts = [text for text in texts if self.anchor in text]
        kept = without_ages(texts, self.concept)
        if len(kept) < len(texts):
            log.warning("%s: %d of %d anchor prompts mention an age and are skipped", self.name, len(texts) - len(kept),
                        len(texts))
        if not kept:
            where = self.prompts_file or "method.anchor_prompts"
            raise InvalidValueError(f"{where}: no anchor prompt" +
                                    (f" with the word '{self.anchor}'." if self.anchor else " without category."))
        return kept

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        import torch

        images = self._draw_images(model, progress)
        generator = torch.Generator().manual_seed(derived_seed("concept_ablation", self.seed))
        # Which image is ablated in where which is the prior's: drawn once, as the release shuffles its list.
        partner = torch.randperm(self.images, generator=generator)
        with frozen_denoiser(model), begin_token_detached(model.denoiser):
            copy = WorkingCopy(model, self.parameter_names(model.denoiser))
            order = torch.full((self.images + self.batch,), -1)
            picks = self._picks(generator, order)

            def step(_: int) -> Tensor:
                batch = self._batch(images, next(picks), partner, generator, model.pipe.vae_scale_factor)
                return self._loss(model, copy, batch, generator)

            losses = optimise(copy, self, step, progress, carried=Carried(generator, drawn={"order": order}))
        return Trained(copy.deltas(), {"losses": losses, "images": self.images})

    def _draw_images(self, model: LoadedModel, progress: Progress) -> AnchorImages:
        """Generate images of the anchor prompts, round robin."""
        texts, negative = self.texts(), ";".join(self.concept) if self.negative else ""
        wanted = [TrainingImage(texts[n % len(texts)], derived_seed("concept_ablation", self.seed, n), negative)
                  for n in range(self.images)]
        with sampled_by(model, self.scheduler):
            images = generate_images(model, wanted, self.steps, self.guidance_scale,
                                     lambda done, total: progress(f"{self.name}: anchor images", done, total))
        return AnchorImages(images, [image.prompt for image in wanted])

    def _picks(self, generator: Generator, order: Tensor) -> Iterator[list[int]]:
        """Yield batches of places without end, shuffled anew in every round; `order` holds what comes next, then -1."""
        import torch

        while True:
            coming = order[order >= 0]
            while len(coming) < self.batch:
                coming = torch.cat([coming, torch.randperm(self.images, generator=generator)])
            order.fill_(-1)[: len(coming) - self.batch] = coming[self.batch :]
            yield coming[: self.batch].tolist()

    def _batch(self, images: AnchorImages, places: Sequence[int], partner: Tensor, generator: Generator, factor: int
               ) -> Batch:
        """Frame the images of a step: at each place one to ablate in, and another one of the prior."""
        shown = [int(partner[place]) for place in places]
        frames = [draw_frame(len(images.images[k]), self.augment, self.flip, generator) for k in shown]
        pictures = [framed(images.images[k], frame) for k, frame in zip(shown, frames, strict=True)]
        anchors = [images.prompts[k] for k in shown]
        named = [frame.words + self._named(text, place, generator)
                 for text, place, frame in zip(anchors, places, frames, strict=True)]
        masks = [frame_mask(len(picture), frame, factor) for picture, frame in zip(pictures, frames, strict=True)]
        prior = list(places) if self.prior_weight else []
        pictures += [framed(images.images[k], draw_frame(len(images.images[k]), False, self.flip, generator))
                     for k in prior]
        return Batch(pictures, masks, named, anchors, [images.prompts[k] for k in prior])

    def _loss(self, model: LoadedModel, copy: WorkingCopy, batch: Batch, generator: Generator) -> Tensor:
        import torch

        scheduler, n = model.scheduler("ddpm"), len(batch.named)
        z_0 = encoded(model, batch.pictures, generator).to(model.device)
        noise = torch.randn(z_0.shape, generator=generator).to(model.device)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(z_0),), generator=generator).to(model.device)
        z = scheduler.add_noise(z_0, noise, t)
        truth = scheduler.get_velocity(z_0, noise, t) if model.prediction_type == "v_prediction" else noise
        predicted, goal = copy.denoise(z, t, condition(model, [*batch.named, *batch.prior])), truth[:n]
        if self.loss == "model":
            with torch.no_grad():
                goal = copy.denoise(z[:n], t[:n], condition(model, batch.anchors))
        mask = torch.from_numpy(np.stack(batch.masks))[:, None].to(model.device)
        loss = masked_error(predicted[:n], goal, mask)
        if batch.prior:
            loss = loss + self.prior_weight * (predicted[n:] - truth[n:]).square().mean()
        return loss

    def _named(self, prompt: str, place: int, generator: Generator) -> str:
        import torch

        template = self.templates[int(torch.randint(len(self.templates), (1,), generator=generator))]
        return target_prompt(prompt, self.concept[place % len(self.concept)], template, self.anchor)
