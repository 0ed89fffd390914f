"""Human Feedback Inversion (Kim, Jung, Kim, Choi, Shin, Lee, ECCV 2024): what people object to, as a learned word v*.

1. Feedback on generated images trains a reward r on CLIP's image embedding. 2. v* = argmin E r(x) |n - e(z_t, t,
tau(template(v)))|^2 over the images with the highest rewards: textual inversion, weighted. 3. v* takes the place of the
concept in the methods to the right: method=[hfi,sdd], [hfi,sld_medium], [hfi,negative_prompt], [hfi,esd_x].

Code and annotations were never released; what the abstract leaves open (K, rates, steps, templates) is a setting with a
guess. So is that a ranking reward is read as its sigmoid around the median.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from harness.declared import Declared
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluators.clip import ClipSource
from harness.lib.hashing import canonical_json, text_hash
from harness.lib.wanted import Download
from harness.method import Artifact, Export, Method, Progress, Refusal, Trained
from harness.records import ImageItem
from harness.setting_types import FilePath, Iterations, Number, Seed, Text, Texts
from harness.training.fine_tuning import check_finite
from harness.training.prompts import derived_seed
from harness.training.weight_edits import check_family
from methods.hfi_feedback import Feedback, ImageFiles, feedback_hash, missing_feedback, read_feedback
from methods.hfi_inversion import TokenTrainer, TokenTraining
from methods.hfi_tokens import soft_tokens, token_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

TOKEN, REWARD = "token", "reward."
LEARNED = "learned_embeds.safetensors"  # as diffusers' textual inversion example writes it
HOW_TO_USE = f"""\
word = "{{word}}"
pipe.load_textual_inversion(".", weight_name="{LEARNED}", token=word)
# image = pipe("a prompt", negative_prompt=word).images[0]
"""


def binary_loss(r: Tensor, y: Tensor) -> Tensor:
    """HFI, binary feedback: E (r(x) - y)^2."""
    return (r - y).square().mean()


def ranking_loss(more: Tensor, less: Tensor) -> Tensor:
    """HFI, rankings (Bradley-Terry): -E log sigma(r(x+) - r(x-)). The paper's sum over M^2 pairs is a mean here.

    Which images the paper weights by a reward learned so, and how, is not known: see the module's docstring.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(more - less).mean()


def reward(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Return r(x) (N,) of CLIP embeddings x (N, D): a perceptron with one hidden layer."""
    hidden = ((x - weights["mean"]) / weights["scale"]) @ weights["w1"] + weights["b1"]
    return hidden.relu() @ weights["w2"] + weights["b2"]


@dataclass(frozen=True)
class RewardTraining(Declared):
    """How the reward is learned. All of it is our guess."""

    settings_of: ClassVar[str] = "method.reward"

    hidden: Annotated[int, Ge(1), Le(65536)] = 128
    iterations: Iterations = 500
    learning_rate: Annotated[Number, Ge(1e-12), Le(10)] = 1e-3
    weight_decay: Annotated[Number, Ge(0), Le(10)] = 1e-2


def reward_weights(x: Tensor, feedback: Feedback, recipe: RewardTraining, generator: Generator
                   ) -> tuple[dict[str, Tensor], list[float]]:
    """Learn r from CLIP embeddings (N, D) and what was said of them; return its weights and the losses."""
    import torch

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[0] ** 0.5

    width = x.shape[1]
    learned = {"w1": normal(width, recipe.hidden), "b1": torch.zeros(recipe.hidden), "w2": normal(recipe.hidden),
               "b2": torch.zeros(())}
    fixed = {"mean": x.mean(0), "scale": x.std(0).clamp(min=1e-6)}
    adam = torch.optim.AdamW([value.requires_grad_() for value in learned.values()], lr=recipe.learning_rate,
                             weight_decay=recipe.weight_decay)
    y = torch.tensor(feedback.labels)
    more, less = ([getattr(pair, side) for pair in feedback.pairs] for side in ("more", "less"))
    losses = []
    for step in range(recipe.iterations):
        with torch.enable_grad():
            r = reward(x, learned | fixed)
            loss = binary_loss(r, y) if feedback.labels else ranking_loss(r[more], r[less])
        losses.append(check_finite(float(loss.detach()), "the reward", step))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return {name: value.detach() for name, value in (learned | fixed).items()}, losses


@dataclass(frozen=True, kw_only=True)
class SoftConcept(Method):
    """Learn a word from feedback, and publish it as the concept of the methods to the right.

    `word` is where v* starts. `replaces` lists the concept strings of methods to the right that now mean v*; null:
    all. The word's name holds a hash of the recipe and the feedback; a prompt that holds it is refused.
    """

    word: Text
    clip: Text
    clip_revision: Text | None = None
    replaces: Texts | None = None
    reward: RewardTraining = field(default_factory=RewardTraining)
    inversion: TokenTraining = field(default_factory=TokenTraining)
    seed: Seed = 0

    edits_model: ClassVar[bool] = True
    edits_denoiser: ClassVar[bool] = False

    @property
    def trains(self) -> bool:
        return True

    @property
    def recipe(self) -> TokenTraining:
        return self.inversion

    @property
    def token(self) -> str:
        """Return the text that stands for v*."""
        return token_text(self._token_name, self.recipe.vectors)

    @cached_property
    def _token_name(self) -> str:
        text = canonical_json(self.training_identity(), spaced=True)
        return f"{self.kind}-{text_hash(text)[:32]}"

    def params(self) -> dict[str, Any]:
        nested = {name: asdict(getattr(self, name)) for name in ("reward", "inversion")}
        nested["inversion"]["templates"] = list(self.recipe.templates)
        return super().params() | nested | {"clip": dict(ClipSource(self.clip, self.clip_revision).identity())}

    def training_identity(self) -> dict[str, Any]:
        params = {key: value for key, value in self.params().items() if key != "replaces"}
        return {"kind": self.kind, "version": self.version, "params": params}

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        check_family(self.name, model_config, "one CLIP text encoder that learns a word")  # SDXL has two

    def publish(self, other: Method) -> Method:
        def rename(concept: str) -> str:
            return self.token if self.replaces is None or concept in self.replaces else concept

        return other.rename_concepts(rename)

    def how_to_use(self) -> str:
        return f"Use method=[{self.name},sdd], and check method.replaces."

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem | Refusal]:
        name = self._token_name
        texts = [f"{item.prompt}\n{item.negative_prompt or ''}".casefold() for item in items]
        refusal = Refusal("the prompt contains a word reserved for methods")
        return [refusal if name in text else item for item, text in zip(items, texts, strict=True)]

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        assert artifact is not None
        if TOKEN not in artifact.tensors or artifact.tensors[TOKEN].shape[:-1] != (self.recipe.vectors,):
            raise IncompatibleError(f"the artifact does not fit method {self.name}: it has no {self.recipe.vectors} "
                                    f"learned token vectors ({TOKEN}).")
        return soft_tokens(model, self._token_name, artifact.tensors[TOKEN])

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        word = f"<{cls.kind}-{artifact.key}>"
        return Export({LEARNED: {word: artifact.tensors[TOKEN]}}, HOW_TO_USE.format(word=word))

    @abstractmethod
    def labelled(self, model: LoadedModel, progress: Progress) -> tuple[Sequence[np.ndarray], Feedback]:
        """Return images (H, W, 3) uint8 and what was said of them."""

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained:
        import torch

        clip = ClipSource(self.clip, self.clip_revision).load(str(model.device))
        images, feedback = self.labelled(model, progress)
        generator = torch.Generator().manual_seed(derived_seed(self.kind, self.seed))
        parts = [clip.image_features(list(images[first : first + 32])) for first in range(0, len(images), 32)]
        x = torch.cat([torch.from_numpy(part) for part in parts])
        assert isinstance(self.reward, RewardTraining)
        weights, losses = reward_weights(x, feedback, self.reward, generator)
        r = reward(x, weights)
        r = r.clamp(0, 1) if feedback.labels else (r - r.median()).sigmoid()
        best = r.argsort(descending=True)[: self.recipe.top]
        trainer = TokenTrainer(model, self.recipe, self._token_name, generator)
        token, inversion = trainer.run(self.word, [images[index] for index in best.tolist()], r[best], progress)
        tensors = {TOKEN: token} | {REWARD + name: value for name, value in weights.items()}
        return Trained(tensors, {"losses": {"reward": losses, "token": inversion}, "images": len(images)})


@dataclass(frozen=True, kw_only=True)
class HFI(SoftConcept):
    """The word learned from people's feedback: `feedback`, a CSV file of images and labels or ranks."""

    feedback: FilePath | None = None
    name: str = "hfi"

    kind: ClassVar[str] = "hfi"

    def params(self) -> dict[str, Any]:
        return super().params() | {"feedback": feedback_hash(self.feedback) if self.feedback else None}

    def missing(self) -> str | None:
        return self._lost() or ClipSource(self.clip, self.clip_revision).missing()

    def downloads(self) -> Sequence[Download]:
        return ClipSource(self.clip, self.clip_revision).downloads()

    def _lost(self) -> str | None:
        problem = missing_feedback(self.feedback)
        if problem or self.feedback is None:
            return problem
        try:
            read_feedback(self.feedback)
        except MissingResourceError as error:
            return str(error)
        except InvalidValueError:
            pass  # `check` says it
        return None

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        super().check(model_config, guidance_scale)
        if self.feedback is not None and not self._lost():
            read_feedback(self.feedback)

    def labelled(self, model: LoadedModel, progress: Progress) -> tuple[Sequence[np.ndarray], Feedback]:
        problem = self.missing()
        if problem or self.feedback is None:
            raise MissingResourceError(problem or "no feedback file is set.")
        file = read_feedback(self.feedback)
        return ImageFiles(file.images), file.feedback
