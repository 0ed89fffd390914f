"""Unified Concept Editing (Gandikota et al., WACV 2024): concepts redirected in closed form, in seconds.

Every cross-attention K and V matrix W becomes
W* = (lam W + a sum_E W g_i c_i^T + b sum_P W p_j p_j^T) (lam I + a sum_E c_i c_i^T + b sum_P p_j p_j^T)^-1 (eq. 7),
with c_i the last subject token of an erased concept, g_i that of its guide ("" means the begin token), p_j of what is
preserved. Constants are those of the released script, which solves in float32; here it is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.declared import Values
from harness.errors import InvalidValueError
from harness.method import Artifact, Export, Method, Progress, Trained
from harness.setting_types import FilePath, OneOrMore, Scale, Strength, Text
from harness.training.closed_form import deltas, edit_matrix, kept_tokens, paired_tokens, projections, relative_change
from harness.training.prompts import file_hash, listed_names, missing_file
from harness.training.weight_edits import UNETS, check_family, check_fit, deltas_added, unet_export

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

TEMPLATES = {
    "object": ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"),
    "art": ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"),
}


def expanded(pairs: Sequence[tuple[str, str]], concept_type: str, guides_too: bool = True) -> list[tuple[str, str]]:
    """Return (concept, guide) pairs with each concept in five more templates and its guide in the same ones.

    `guides_too` false keeps the guide as it is, as the first release does.
    """
    more = [(template.format(text), template.format(guide) if guides_too else guide)
            for text, guide in pairs for template in TEMPLATES[concept_type]]
    return [*pairs, *more]


@dataclass(frozen=True)
class UCE(Method):
    """W + strength (W* - W). `guides` is one text for all or one for each concept; null is "" ("art" for art).

    An empty `erase` changes nothing, whatever is preserved. `tokens`: "last" as now released, "tail" as first released.
    `preserve_file`, a CSV file with a column artist or a text file with one name a line, is preserved besides, less
    what is erased.
    """

    erase: OneOrMore[Text]
    guides: OneOrMore[str] | None = None
    preserve: OneOrMore[str] = ()
    erase_scale: Scale = 1.0
    preserve_scale: Scale = 1.0
    lam: Scale = 0.5
    expand_prompts: bool = False
    concept_type: Literal["object", "art"] = "object"
    tokens: Literal["last", "tail"] = "last"
    strength: Strength = 1.0
    preserve_file: FilePath | None = None
    name: str = "uce"

    kind: ClassVar[str] = "uce"
    version: ClassVar[int] = 2  # 2: texts in float32 whatever the dtype, guides expanded, what is kept once
    edits_model: ClassVar[bool] = True
    weights_of: ClassVar[str | None] = "U-Net"

    @classmethod
    def completed(cls, values: Values) -> Values:
        """Give each concept its guide."""
        erase, guides = values["erase"], values["guides"]
        if guides is None:
            guides = ("art" if values["concept_type"] == "art" else "",)
        if len(guides) == 1:
            guides *= len(erase)
        if len(guides) != len(erase):
            raise InvalidValueError(f"method.guides has {len(guides)} texts for {len(erase)} erased concepts.",
                                    "Set one for all, or one per concept.")
        return values | {"guides": guides}

    @property
    def trains(self) -> bool:
        return bool(self.strength and self.erase)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is erased, and what it becomes."""
        pairs = list(zip(self.erase, self.guides or (), strict=True))
        return expanded(pairs, self.concept_type, self.tokens == "last") if self.expand_prompts else pairs

    @property
    def kept(self) -> tuple[str, ...]:
        """What is preserved; the first release, whose every position is edited, keeps "" as well, once."""
        named = (*self.preserve, *self.listed())
        return named if self.tokens == "last" else tuple(dict.fromkeys(("", *named)))

    def listed(self) -> tuple[str, ...]:
        """Return the names of `preserve_file`, each once, without those that are erased in any case of letters."""
        erased = {text.lower() for text in self.erase}
        names = listed_names(self.preserve_file) if self.preserve_file else ()
        return tuple(name for name in names if name.lower() not in erased)

    def params(self) -> dict[str, Any]:
        """Return the settings; a file by its hash, and none where none is given."""
        settings = super().params()
        file = settings.pop("preserve_file")
        return settings | ({"preserve_file": file_hash(file)} if file else {})

    def missing(self) -> str | None:
        return missing_file(self.preserve_file) if self.preserve_file else None

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        renamed = dict.fromkeys(zip(map(rename, self.erase), self.guides or (), strict=True))
        return replace(self, erase=tuple(text for text, _ in renamed), guides=tuple(guide for _, guide in renamed))

    def training_identity(self) -> dict[str, Any]:
        params = {key: value for key, value in self.params().items() if key != "strength"}
        return {"kind": self.kind, "version": self.version, "params": params}

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "a U-Net's cross-attention to CLIP texts", UNETS)

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        progress("closed form", 0, 1)
        changes = deltas(model.denoiser, self.edit(model))
        progress("closed form", 1, 1)
        return Trained(changes, {"losses": [], "relative_change": relative_change(model.denoiser, changes)})

    def edit(self, model: LoadedModel) -> Tensor:
        """Return E (D, D) with W* = W (I + E)."""
        import torch

        with model.float32_texts():
            rows = [paired_tokens(model, text, guide, self.tokens) for text, guide in self.pairs]
            C, G = (torch.cat(side) for side in zip(*rows, strict=True))
            P = kept_tokens(model, self.kept, self.tokens)
        return edit_matrix(C, G, P, self.erase_scale, self.preserve_scale, self.lam)

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        if artifact is None or not self.strength:
            return nullcontext()
        check_fit(artifact.tensors, {name: W.shape for name, W in projections(model.denoiser).items()})
        return deltas_added(model.denoiser, artifact.tensors, self.strength)

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        return unet_export(load(), artifact, artifact.tensors)
