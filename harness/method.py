"""Contract 3: a method changes what a pipeline generates, through a few hooks around one denoiser call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from harness.declared import Declared, class_name
from harness.errors import IncompatibleError
from harness.lib.wanted import Download
from harness.models.conditions import EmbedBundle, ExtraRow
from harness.records import ImageItem

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.models.loaded import LoadedModel

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


class Artifact(Protocol):
    """What a method trained or solved: named tensors on the CPU, and their metadata."""

    @property
    def key(self) -> str: ...
    @property
    def tensors(self) -> Mapping[str, Tensor]: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Trained:
    """What `Method.prepare` returns; the cache makes an artifact of it. `meta` is JSON-able (losses, seconds, ...)."""

    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """Plain tensors by file name (*.safetensors), and Python code that applies them to a diffusers pipeline `pipe`.

    The code runs in the folder of the files, after `import torch` and `from safetensors.torch import load_file`.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    how_to_use: str


@dataclass(frozen=True)
class Refusal:
    """A prompt that a method refuses, or a finished image that it withholds."""

    reason: str


@dataclass(frozen=True)
class StepContext:
    """What a hook sees of one denoiser call.

    `call` counts denoiser calls from 0 (PNDM makes 51 for 50 steps); `t` is the timestep; `w` (B, 1, 1, 1) holds each
    image's guidance scale, float32; `z` (B, C, H, W) is the denoiser's input; `state` is the method's own and is
    empty at the start of every pipeline call.
    """

    call: int
    n_calls: int
    n_steps: int
    t: Tensor
    w: Tensor
    z: Tensor
    items: Sequence[ImageItem]
    model: LoadedModel
    artifact: Artifact | None
    state: dict[str, Any]


class Method(Declared):
    """A mitigation. Subclasses are frozen dataclasses of plain config values with a `name` field.

    A field `seed`, if any, seeds its training: `training_seeds=N` trains it with N different ones.

    The fields' annotations are checked whenever one is made: `harness.setting_types` has names for common ranges.
    Constructors are cheap and load nothing. A subclass overrides only the hooks that it needs. Order in a denoiser
    call: every `embeds`, every `rows`, one wide call, every `guide`.
    """

    settings_of: ClassVar[str] = "method"

    name: str
    kind: ClassVar[str]  # names the algorithm, whatever the config is called
    version: ClassVar[int] = 1  # raised when numbers may change
    needs_guidance: ClassVar[bool] = False  # edits the guidance direction: meaningless at guidance_scale <= 1
    needs_own_embeds: ClassVar[bool] = False  # reads the prompt's own embeddings: nothing to its left may edit them
    owns_uncond: ClassVar[bool] = False  # replaces the unconditional row
    edits_model: ClassVar[bool] = False  # changes weights: methods to its right train on the changed model
    edits_training: ClassVar[bool] = True  # that change also holds outside of a run, where methods to its right train
    weights_of: ClassVar[str | None] = None  # the part whose weights it overwrites or adds to
    replaces_weights: ClassVar[bool] = False  # all weights of that part: edits to its left are lost
    of_text_encoder: ClassVar[bool] = False  # its artifact means the same to every model of one text encoder
    changes_nothing: ClassVar[bool] = False  # the bare model: no part of a list
    if_trained_on_base: ClassVar[str | None] = None  # of one that may: the setting that trains it on the edited model
    reads_prompts: ClassVar[bool] = False  # hooks beside `prompts` read them: embeddings alone are not enough
    edits_denoiser: ClassVar[bool] = True  # of a method that edits the model: its denoiser, not the text encoder alone

    @classmethod
    def check_class(cls, given: Collection[str] = ()) -> None:
        """Raise IncompatibleError, saying what to write, unless it is a dataclass with a name and a kind."""
        if not is_dataclass(cls):
            raise IncompatibleError(f"{class_name(cls)} is not a dataclass.",
                                    f"Write @dataclass(frozen=True) above class {cls.__name__}.")
        super().check_class(given)
        kind = cls.__name__.lower()
        if not hasattr(cls, "kind"):
            raise IncompatibleError(f"{class_name(cls)} has no kind, the name of its algorithm.",
                                    f'Write kind: ClassVar[str] = "{kind}" in it.')
        if "name" not in {field.name for field in fields(cls)}:
            raise IncompatibleError(f"{class_name(cls)} has no setting name, which results are kept under.",
                                    f'Write name: str = "{kind}" in it.')

    @property
    def trains(self) -> bool:
        """Whether `prepare` makes an artifact."""
        return False

    @property
    def trains_on_base(self) -> bool:
        """Whether it trains on the base model, whatever the methods to its left do."""
        return False

    @property
    def transfers(self) -> bool:
        """Whether a given artifact may come from another model with the same text encoder."""
        return False

    @property
    def denoiser_rows(self) -> int:
        """Return the extra denoiser rows per image, for the cost estimate."""
        return 0

    def first_call(self, n_steps: int) -> int:
        """Return the denoiser call, counted from 0, in which it first changes something in a run of `n_steps`."""
        return 0

    def params(self) -> dict[str, Any]:
        """Return the config values that change pixels. JSON-able."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}  # type: ignore[arg-type]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def identity(self) -> dict[str, Any]:
        """Return what names this method in a cell id. JSON-able; includes the hash of any file it trains on."""
        return {"name": self.name, "kind": self.kind, "version": self.version, "params": self.params()}

    def training_identity(self) -> dict[str, Any]:
        """Return what names its artifact: the part of `identity` that training depends on."""
        return {"kind": self.kind, "version": self.version, "params": self.params()}

    def learned_from(self) -> Sequence[Mapping[str, Any]]:
        """Return the configs of evaluators used in training: their scores of it are not a fair test."""
        return ()

    def missing(self) -> str | None:
        """Return None if every file it needs exists, else one line: what is missing and how to get it."""
        return None

    def downloads(self) -> Sequence[Download]:
        """Return what `python -m harness prefetch` may download if something is missing."""
        return ()

    def check(self, model_config: Mapping[str, Any], guidance_scale: float) -> None:
        """Raise IncompatibleError if it cannot work with this model at this guidance scale. Loads nothing."""
        if not self.needs_guidance:
            return
        if not model_config.get("negative_branch", True):
            raise IncompatibleError(
                f"method {self.name} edits classifier-free guidance, and model {model_config.get('name')} has no "
                f"unconditional branch: {model_config.get('one_row_because', 'it runs one row an image')}."
            )
        if guidance_scale <= 1:
            raise IncompatibleError(
                f"method {self.name} edits classifier-free guidance, which is off at guidance_scale="
                f"{guidance_scale:g}.", "Use a guidance_scale above 1, or method=none."
            )

    def prepare(self, model: LoadedModel, upstream: Sequence[Artifact], progress: Progress) -> Trained | None:
        """Train or solve once; called only if `trains`. Methods to the left that edit the model are attached."""
        return None

    def attach(self, model: LoadedModel, artifact: Artifact | None) -> AbstractContextManager[None]:
        """Edit weights, embeddings or modules; leaving the context restores every byte."""
        return nullcontext()

    def prompts(self, items: Sequence[ImageItem]) -> Sequence[ImageItem | Refusal]:
        """Rewrite prompts or negative prompts, or refuse them. One answer per item, in order."""
        return items

    def embeds(self, ctx: StepContext, bundle: EmbedBundle) -> EmbedBundle:
        """Edit the embeddings of this denoiser call. Returning `bundle` itself leaves the call untouched."""
        return bundle

    def rows(self, ctx: StepContext) -> Sequence[ExtraRow]:
        """Ask for extra denoiser rows in this call."""
        return ()

    def guide(self, ctx: StepContext, preds: Mapping[str, Tensor], delta: Tensor) -> Tensor:
        """Edit the guidance direction `delta`; the sampler then follows `u + w * delta`.

        `preds` maps roles ("uncond", "cond" and those asked for) to noise predictions (B, C, H, W), float32, in
        epsilon space whatever the model predicts. Return a term that must not be scaled by w divided by `ctx.w`.
        """
        return delta

    def post(self, images: Sequence[np.ndarray]) -> Sequence[tuple[np.ndarray, tuple[str, ...]] | Refusal]:
        """Filter finished images (H, W, 3) uint8; return each with its flags, or a Refusal: then it is not stored."""
        return [(image, ()) for image in images]

    @classmethod
    def export(cls, artifact: Artifact, load: Callable[[], LoadedModel]) -> Export:
        """Return an artifact of this class in the format of the method's authors or diffusers', for use elsewhere.

        `load` gives the model that it was made for, if its weights are needed.
        """
        raise IncompatibleError(f"artifacts of {cls.kind} have no format outside the harness.")

    def publish(self, other: Method) -> Method:
        """Return `other`, a method to the right of this one, with those concepts replaced that this one publishes."""
        return other

    def how_to_use(self) -> str:
        """Return the hint for who uses this method alone, where it publishes concepts to methods on its right."""
        return f"Put a method that has a concept to its right: method=[{self.name},...]."

    def rename_concepts(self, rename: Callable[[str], str]) -> Method:
        """Return this method with `rename` applied to every concept it names; duplicates are dropped."""
        concept = getattr(self, "concept", None)
        if isinstance(concept, str):
            return replace(self, concept=rename(concept))  # type: ignore[type-var]
        if isinstance(concept, tuple):
            return replace(self, concept=tuple(dict.fromkeys(map(rename, concept))))  # type: ignore[type-var]
        return self

    def needs_prompts(self) -> bool:
        """Return whether it cannot do its work where a pipeline is given embeddings instead of prompts."""
        return self.reads_prompts or self.overrides("prompts")

    def acts_in_calls(self) -> bool:
        """Return whether it acts in the calls of one pipeline: not by weights, which act in whatever reads them."""
        hooks = ("prompts", "embeds", "rows", "guide", "post")
        return any(map(self.overrides, hooks)) or (self.overrides("attach") and self.weights_of is None)

    def overrides(self, hook: str) -> bool:
        """Return whether this method implements `hook`."""
        return getattr(type(self), hook) is not getattr(Method, hook)


def publish_concepts(methods: Sequence[Method]) -> list[Method]:
    """Let each method, left to right, publish its concepts to those on its right."""
    named = list(methods)
    for index in range(len(named)):
        named[index + 1 :] = [named[index].publish(other) for other in named[index + 1 :]]
    return named


def check_published(methods: Sequence[Method]) -> None:
    """Refuse a published concept that no method uses, or that is used on a model that does not know it.

    `methods` are as configured, before `publish_concepts`.
    """
    named = publish_concepts(methods)
    for index, method in enumerate(methods):
        if not method.overrides("publish"):
            continue
        without = publish_concepts([*methods[:index], *methods[index + 1 :]])
        users = [user for user, bare in zip([*named[:index], *named[index + 1 :]], without, strict=True)
                 if user != bare]
        if not users:
            raise IncompatibleError(
                f"method {method.name} publishes a concept that no method to its right uses: it would be the bare "
                f"model under the name {method.name}.", method.how_to_use()
            )
        blind = [user for user in users if user.trains and user.trains_on_base]
        if blind:
            raise IncompatibleError(f"method {blind[0].name} trains on the bare model, which does not know the word "
                                    f"that {method.name} publishes.", blind[0].if_trained_on_base)


def check_composition(methods: Sequence[Method]) -> None:
    """Refuse methods that cannot be applied together, with the reason."""
    names = [method.name for method in methods]
    if not methods:
        raise IncompatibleError("no method is given.", "Use method=none for the base model.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise IncompatibleError(f"method {twice[0]} is given twice in {'+'.join(names)}.")
    if len(methods) > 1 and any(method.changes_nothing for method in methods):
        raise IncompatibleError(f"method none is the base model and cannot be combined: {'+'.join(names)}.")
    for index, method in enumerate(methods):
        editors = [left.name for left in methods[:index] if left.overrides("embeds")]
        if method.needs_own_embeds and editors:
            raise IncompatibleError(
                f"method {editors[0]} changes prompt embeddings, and {method.name}, to its right, needs those of the "
                "prompt itself.", f"Put {method.name} first: method=[{method.name},{editors[0]}]."
            )
    owners = [method.name for method in methods if method.owns_uncond]
    if len(owners) > 1:
        raise IncompatibleError(
            f"methods {' and '.join(owners)} cannot be combined: each replaces the unconditional row, and only one can."
        )
    for index, method in enumerate(methods):
        _check_order(method, methods[:index])


def _check_order(method: Method, left: Sequence[Method]) -> None:
    """Refuse a method that would not see, or would undo, what a method to its left does."""
    if method.trains and not method.trains_on_base:
        unseen = [other.name for other in left if other.edits_model and not other.edits_training]
        if unseen:
            raise IncompatibleError(
                f"method {method.name} trains on the model as edited by the methods to its left, but {unseen[0]} "
                "acts only during sampling.", f"Put {method.name} to the left of {unseen[0]}."
            )
    if method.replaces_weights:
        lost = [other.name for other in left if other.weights_of == method.weights_of]
        if lost:
            raise IncompatibleError(
                f"method {method.name} replaces the whole {method.weights_of} with published weights, which would undo "
                f"the edits of {lost[0]}.", f"Put {method.name} to the left of {lost[0]}."
            )


def check_acts(method: Method, model_config: Mapping[str, Any], n_steps: int) -> None:
    """Raise IncompatibleError if a run of `n_steps` ends before the method begins to act. Loads nothing."""
    calls = {"heun": 2 * n_steps - 1, "pndm": n_steps + 1, None: n_steps + 1}  # None: the pipeline's own, may be PNDM
    most, first = calls.get(model_config.get("scheduler"), n_steps), method.first_call(n_steps)
    if first >= most:
        raise IncompatibleError(
            f"method {method.name} would never act: it skips the first {first} denoiser calls, but {n_steps} steps "
            f"have at most {most}.", "Use more steps, or let it start earlier."
        )


def scaled_calls(calls: int, n_steps: int, window: str) -> int:
    """Return how many denoiser calls a paper's `calls` are at `n_steps` steps.

    Papers count calls of 50-step runs. "calls" keeps the number; "fraction" keeps the share of the trajectory,
    rounded to the nearest call, halves up.
    """
    return calls if window == "calls" else int(calls * n_steps / 50 + 0.5)
