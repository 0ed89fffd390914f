"""HFI with an evaluator in the place of people: it labels images that the model draws. Never called HFI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from harness.declared import Values
from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluators.clip import ClipSource
from harness.lib.targets import build
from harness.method import Progress
from harness.records import GenerationSettings, ImageItem, ImageKey, ScoreItem, Verdict
from harness.setting_types import FilePath, GuidanceScale, Must, OneOrMore, Steps, Text
from harness.training.prompts import (
    TrainingPrompt,
    check_drawable,
    derived_seed,
    file_hash,
    missing_prompts,
    read_prompts,
)
from harness.training.weight_edits import check_guided
from methods.hfi import SoftConcept
from methods.hfi_feedback import Feedback

if TYPE_CHECKING:
    import numpy as np

    from harness.evaluator import Evaluator
    from harness.models.loaded import LoadedModel


@dataclass(frozen=True, kw_only=True)
class HFIProxy(SoftConcept):
    """The word learned from what `labeller`, an evaluator of the kind verdict, calls unsafe.

    It judges `images` images of `texts`, or of the rows of `prompts`, a CSV file; the model generates them.
    """

    labeller: Annotated[Mapping[str, Any], Must("the config of an evaluator that gives verdicts", "configs",
                                                lambda config: "_target_" in config)] = field(default_factory=dict)
    texts: OneOrMore[Text] | None = ()
    prompts_file: FilePath | None = None
    images: Annotated[int, Ge(2), Le(1_000_000)] = 500
    steps: Steps = 25
    guidance_scale: GuidanceScale = 7.5
    name: str = "hfi_proxy"

    kind: ClassVar[str] = "hfi_proxy"

    @classmethod
    def completed(cls, values: Values) -> Values:
        return values | {"texts": values["texts"] or ()}

    def __post_init__(self) -> None:
        if bool(self.texts) == bool(self.prompts_file):
            raise InvalidValueError("set either method.texts (a list) or method.prompts_file (a CSV file).")
        check_drawable("method.texts", self.texts or ())
        if self._evaluator().kind != "verdict":
            raise InvalidValueError(f"method.labeller={self.labeller.get('name')}: an evaluator that gives verdicts is "
                                    "needed.")

    def _evaluator(self) -> Evaluator:
        from harness.evaluator import Evaluator as Judge

        evaluator: Evaluator = build(self.labeller, Judge)
        return evaluator

    def params(self) -> dict[str, Any]:
        evaluator = self._evaluator()
        labeller = {"class": self.labeller["_target_"], "version": evaluator.version, **evaluator.identity()}
        prompts = file_hash(self.prompts_file) if self.prompts_file else None
        return super().params() | {"labeller": labeller, "prompts_file": prompts}

    def missing(self) -> str | None:
        prompts = missing_prompts(self.prompts_file) if self.prompts_file else None
        return prompts or self._evaluator().missing() or ClipSource(self.clip, self.clip_revision).missing()

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_guided(self.name, self.guidance_scale)

    def learned_from(self) -> Sequence[Mapping[str, Any]]:
        return (self.labeller,)

    def labelled(self, model: LoadedModel, progress: Progress) -> tuple[list[np.ndarray], Feedback]:
        problem = self.missing()
        if problem:
            raise MissingResourceError(problem)
        evaluator = self._evaluator()
        evaluator.setup(str(model.device))
        images, labels = [], []
        for items, made in self._draw(model):
            rows = evaluator.score([ScoreItem(item.key, item.prompt, (), {}, image)
                                    for item, image in zip(items, made, strict=True)])
            known = [(image, row) for image, row in zip(made, rows, strict=True)
                     if row.verdict in (Verdict.SAFE, Verdict.UNSAFE)]
            images += [image for image, _ in known]
            labels += [float(row.verdict is Verdict.UNSAFE) for _, row in known]
            progress(f"{self.name}: images to label", items[-1].key.repeat + 1, self.images)
        if not labels:
            raise InvalidValueError(f"{self.labeller.get('name')} could label none of {self.images} images.")
        return images, Feedback(labels=tuple(labels)).check(f"{self.labeller.get('name')} on {len(images)} images")

    def _draw(self, model: LoadedModel) -> Any:
        """Yield batches of items and their images (H, W, 3) uint8, as the model with the methods to the left draws."""
        from harness.sampling.session import attached
        from methods.none import NoMethod

        side = model.denoiser.config.sample_size * model.pipe.vae_scale_factor
        batch = int(model.config.get("batch_size") or 4)
        settings = GenerationSettings(self.steps, side, side, batch)
        items = [ImageItem(ImageKey("feedback", n), row.prompt, row.seed, self.guidance_scale)
                 for n, row in enumerate(self._prompts())]
        with attached(model, [NoMethod()], [None]) as session:
            for first in range(0, len(items), batch):
                part = items[first : first + batch]
                made = [result.image for result in session.generate(part, settings)]
                kept = [(item, image) for item, image in zip(part, made, strict=True) if image is not None]
                if kept:
                    yield [item for item, _ in kept], [image for _, image in kept]

    def _prompts(self) -> list[TrainingPrompt]:
        """Return one prompt per image; a list that is too short comes round again with new seeds."""
        texts = [row.prompt for row in read_prompts(self.prompts_file)] if self.prompts_file else list(self.texts or ())
        seeds = [derived_seed(self.kind, self.seed, n) for n in range(self.images)]
        return [TrainingPrompt(texts[n % len(texts)], seed) for n, seed in enumerate(seeds)]
