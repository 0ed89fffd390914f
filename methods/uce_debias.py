"""UCE's debiasing (Gandikota et al., WACV 2024, sec. 4.3): concepts moved toward attributes until shares are even.

The value of a concept c_i becomes v_i* = W c_i + sum_k r_ik W a_k, with a_k the attributes. Each round draws images of
every concept, reads the attribute shares with a zero-shot CLIP, and solves again from the original weights. The
released loop adds rho_k = desired_k - share_k to v* in place, so that r sums up over the rounds, and leaves its
step_size of 0.1 unused; `accumulate` false is the formula as printed, with the last round's rho alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from harness.declared import Values
from harness.errors import InvalidValueError
from harness.evaluators.clip import Clip, ClipSource
from harness.lib.wanted import Download
from harness.method import Artifact, Export, Method, Progress, Trained
from harness.setting_types import Count, GuidanceScale, Must, OneOrMore, Scale, Seed, Strength, Text, UnitInterval
from harness.training.closed_form import deltas, edit_matrix, kept_tokens, paired_tokens, relative_change
from harness.training.generated_images import TrainingImage, generate_images
from harness.training.prompts import derived_seed
from harness.training.weight_edits import UNETS, check_family, check_guided, deltas_added, unet_export

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

CONCEPT = "{concept}"
TwoTexts = Annotated[OneOrMore[Text], Must("a list of two attributes or more", "lists", lambda texts: len(texts) > 1)]
Template = Annotated[str, Must("a text with {} for the attribute", "texts with {}", lambda text: "{}" in text)]


def missing_shares(shares: np.ndarray, desired: np.ndarray, max_diff: float) -> np.ndarray:
    """Return rho = desired - share (N, K); a concept's row is 0 where all of it is below `max_diff` (release)."""
    rho = desired - shares
    rho[(np.abs(rho) < max_diff).all(axis=1)] = 0.0
    return rho


def zero_shot_shares(clip: Clip, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """Return the share (K,) of images whose nearest text is the k-th."""
    labels = clip.class_probabilities(images, clip.text_features(texts)).argmax(axis=1)
    return np.bincount(labels, minlength=len(texts)) / len(images)


@dataclass(frozen=True)
class UCEDebias(Method):
    """W + strength (W* - W). `desired` shares default to even ones; `template` turns an attribute into CLIP's text.

    `labels`, ours, are CLIP's texts instead of the attributes, one for each; "{concept}" in them is the concept drawn.
    """

    concepts: OneOrMore[Text]
    attributes: TwoTexts
    clip: Text
    clip_revision: Text | None = None
    template: Template = "This is a photo of {}."
    labels: OneOrMore[Text] | None = None
    desired: tuple[UnitInterval, ...] | None = None
    preserve: OneOrMore[str] = ()
    edit_scale: Scale = 1.0
    preserve_scale: Scale = 1.0
    lam: Scale = 0.5
    max_iterations: Count = 30
    max_diff: UnitInterval = 0.05
    accumulate: bool = True
    step_size: Annotated[float, Ge(0), Le(100)] = 1.0
    images: Count = 10
    steps: Count = 20
    guidance_scale: GuidanceScale = 7.5
    seed: Seed = 0
    strength: Strength = 1.0
    name: str = "uce_debias"

    kind: ClassVar[str] = "uce_debias"
    version: ClassVar[int] = 2  # 2: texts in float32 whatever the model's dtype
    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "U-Net"

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Let attributes have even shares where none are asked for."""
        count = len(values["attributes"])
        return values | {"desired": (1 / count,) * count if values["desired"] is None else values["desired"]}

    def __post_init__(self) -> None:
        count, shares = len(self.attributes), self.desired or ()
        if self.labels is not None and len(self.labels) != count:
            raise InvalidValueError(f"method.labels has {len(self.labels)} texts for {count} attributes.")
        if len(shares) != count or abs(sum(shares) - 1) > 1e-6:
            raise InvalidValueError(f"method.desired={list(shares)}: one share for each of {count} attributes is "
                                    "needed, together 1.")

    @property
    def trains(self) -> bool:
        return bool(self.strength and self.concepts)

    def identity(self) -> dict[str, Any]:
        params = {key: value for key, value in self.params().items() if key != "clip"}
        return super().identity() | {"params": params, "clip": dict(self._source.identity())}

    def training_identity(self) -> dict[str, Any]:
        params = {key: value for key, value in self.params().items() if key not in ("strength", "clip")}
        return {"kind": self.kind, "version": self.version, "params": params, "clip": dict(self._source.identity())}

    @property
    def _source(self) -> ClipSource:
        return ClipSource(self.clip, self.clip_revision)

    def missing(self) -> str | None:
        return self._source.missing() if self.trains else None

    def downloads(self) -> Sequence[Download]:
        return self._source.downloads()

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "a U-Net's cross-attention to CLIP texts", UNETS)
        check_guided(self.name, self.guidance_scale)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if artifact is None or not self.strength:
            return nullcontext()
        return deltas_added(model.denoiser, artifact.tensors, self.strength)

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        return unet_export(load(), artifact, artifact.tensors)

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        clip = self._source.load(str(model.device))
        r = np.zeros((len(self.concepts), len(self.attributes)))
        changes = deltas(model.denoiser, self.edit(model, r))
        desired, history = np.array(self.desired), []
        for iteration in range(self.max_iterations):
            with deltas_added(model.denoiser, changes):
                shares = self._shares(model, clip, iteration, progress)
            history.append(shares.tolist())
            rho = missing_shares(shares, desired, self.max_diff)
            if not rho.any():
                break
            r = (r if self.accumulate else 0.0) + self.step_size * rho
            changes = deltas(model.denoiser, self.edit(model, r))
        losses = [float(np.abs(np.array(shares) - desired).max()) for shares in history]
        meta = {"losses": losses, "shares": history, "relative_change": relative_change(model.denoiser, changes)}
        return Trained(changes, meta)

    def edit(self, model: LoadedModel, r: np.ndarray) -> Tensor:
        """Return E (D, D) with W* = W (I + E), for the attributes' weights r (N, K)."""
        import torch

        def last(texts: Sequence[str]) -> Tensor:
            return torch.cat([paired_tokens(model, text, text, "last")[0] for text in texts]).double()

        C, A = last(self.concepts), last(self.attributes)
        P = kept_tokens(model, tuple(self.preserve), "last")
        G = C + torch.as_tensor(r, dtype=torch.float64, device=C.device) @ A
        return edit_matrix(C, G, P, self.edit_scale, self.preserve_scale, self.lam)

    def _shares(self, model: LoadedModel, clip: Clip, iteration: int, progress: Progress) -> np.ndarray:
        """Generate new images of every concept and return their attribute shares (N, K)."""
        wanted = [TrainingImage(concept, derived_seed("uce_debias", self.seed, iteration, concept, n))
                  for concept in self.concepts for n in range(self.images)]
        what = f"round {iteration + 1} of at most {self.max_iterations}: images"
        made = generate_images(model, wanted, self.steps, self.guidance_scale, partial(progress, what))
        groups = [made[start : start + self.images] for start in range(0, len(made), self.images)]
        return np.stack([zero_shot_shares(clip, group, self.texts(concept))
                         for concept, group in zip(self.concepts, groups, strict=True)])

    def texts(self, concept: str) -> list[str]:
        """Return what CLIP compares images of a concept with, one text for each attribute."""
        labels = self.attributes if self.labels is None else self.labels
        return [self.template.format(label.replace(CONCEPT, concept)) for label in labels]
