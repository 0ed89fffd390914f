"""Plain calls, `pipe("a prompt")`, of a pipeline that methods are attached to: they act there as in a run.

The pipeline's class is exchanged for one of its own kind whose call asks the methods first, gives the pipeline the
embeddings that a run gives it, and lets the methods look at the images.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from harness.errors import HarnessError, IncompatibleError
from harness.method import Refusal, check_acts
from harness.models.families import kin_of
from harness.models.loaded import SCHEDULERS
from harness.records import ImageItem
from harness.sampling.call_arguments import CallArguments, needs_text
from harness.sampling.call_images import Output, check_output
from harness.sampling.denoiser import DenoiserHook, PipelineCall
from harness.sampling.texts import bundle_of

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel

log = logging.getLogger(__name__)

APPLIED = "_methods_applied"  # of the class of a pipeline that methods are attached to: their names
LENGTH = "max_sequence_length"  # tokens that T5 reads


class Finished(Protocol):
    """A finished image as methods leave it: None where it is withheld, and flags."""

    @property
    def image(self) -> np.ndarray | None: ...
    @property
    def flags(self) -> tuple[str, ...]: ...


Ask = Callable[[Sequence[ImageItem]], Sequence[ImageItem | Refusal]]
Finish = Callable[[Sequence[np.ndarray]], Iterator[Finished]]


class PlainCalls:
    """Serves the plain calls of a model's pipeline. `refusals` and `flags` are those of the last call, by image."""

    def __init__(self, model: LoadedModel, hook: DenoiserHook, ask: Ask, finish: Finish) -> None:
        self.model, self.hook, self.methods = model, hook, hook.methods
        self.refusals: list[str | None] = []
        self.flags: list[tuple[str, ...]] = []
        self._ask, self._finish = ask, finish
        self._seen: Counter[str] = Counter()
        self._parts = _parts(model)

    def serve(self, call: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Do what `call`, the pipeline's own, does, with the methods acting. Raises HarnessError before it samples."""
        pipe = self.model.pipe
        if self.hook.is_running:  # a session's own
            return call(pipe, *args, **kwargs)
        asked = CallArguments.of(call, pipe, args, kwargs)
        problem = asked.problem(self.hook.edits_direction)
        if problem and not any(method.acts_in_calls() for method in self.methods):
            return call(pipe, *args, **kwargs)  # weights act by themselves
        with self._as_asked(asked):
            self._check(asked, problem)
            return self._serve(call, asked)

    def _serve(self, call: Callable[..., Any], asked: CallArguments) -> Any:
        items = asked.items(self.model.device, self._seen)
        answers = self._answers(asked, items)
        self.refusals = [answer.reason if isinstance(answer, Refusal) else None for answer in answers]
        self.flags = [() for _ in answers]
        if any(self.refusals):
            self._check_form(asked, "a refused prompt gives a black image")
        output = self._drawn(call, asked, answers)
        return self._filtered(output).answer(bool(asked.get("return_dict")), self.refusals)

    @contextmanager
    def _as_asked(self, asked: CallArguments) -> Iterator[None]:
        """Let the model be what this call makes of it: its scheduler may be another, its texts longer."""
        model = self.model
        config, kind, length = model.config, model.prediction_type, asked.get(LENGTH)
        scheduler = model.pipe.scheduler
        model.prediction_type = kin_of(model).prediction or str(scheduler.config.get("prediction_type", "epsilon"))
        model.config = {**config, "scheduler": scheduler_name(scheduler)}
        longer = LENGTH in asked.given and length != config.get(LENGTH)
        if longer:
            model.config = {**model.config, LENGTH: length}
            model.forget_texts()
        try:
            yield
        finally:
            model.config, model.prediction_type = config, kind
            if longer:
                model.forget_texts()

    def _check(self, asked: CallArguments, problem: HarnessError | None) -> None:
        """Raise HarnessError where a method would not act in this call, or not as it does in a run."""
        model = self.model
        if _parts(model) != self._parts:
            raise IncompatibleError("a part of the pipeline was moved or replaced after the method was applied.",
                                    "Remove the method, and apply it to the pipeline as it is now.")
        if problem:
            raise problem
        for method in self.methods:
            method.check(model.config, asked.guidance_scale)
            check_acts(method, model.config, asked.n_steps)
            if method.needs_prompts() and not asked.is_text:
                raise needs_text(f"method {method.name}")
            if method.overrides("post"):
                self._check_form(asked, f"method {method.name} looks at finished images")

    def _check_form(self, asked: CallArguments, why: str) -> None:
        check_output(str(asked.get("output_type")), hasattr(self.model.pipe, "vae"), why)

    def _answers(self, asked: CallArguments, items: Sequence[Any]) -> Sequence[Any]:
        return self._ask(items) if asked.is_text else items

    def _drawn(self, call: Callable[..., Any], asked: CallArguments, answers: Sequence[Any]) -> Output:
        """Run the pipeline; the first accepted item stands in for refused ones, as in a run."""
        pipe = self.model.pipe
        accepted = [answer for answer in answers if not isinstance(answer, Refusal)]
        if not accepted:
            return Output.black(pipe, len(answers), *self._size(asked), str(asked.get("output_type")))
        batch = [accepted[0] if isinstance(answer, Refusal) else answer for answer in answers]
        bundle = bundle_of(self.model, batch) if asked.is_text else None
        if bundle is not None:
            asked.told(kin_of(self.model).texts(bundle))
        running = PipelineCall(batch, bundle, asked.n_steps, is_plain=True)
        with self.hook.running(running):
            answer = call(*asked.bound.args, **asked.bound.kwargs)
        if not running.began:
            names = "+".join(method.name for method in self.methods)
            raise HarnessError(f"method {names} did not act: the pipeline never called the denoiser that it is "
                               "applied to.", "Apply it again, after the pipeline is compiled or changed.")
        return Output.of(pipe, answer)

    def _size(self, asked: CallArguments) -> tuple[int, int]:
        pipe, denoiser = self.model.pipe, self.model.denoiser
        if asked.get("image") is not None:
            height, width = pipe.image_processor.preprocess(asked.get("image")).shape[-2:]
            return int(height), int(width)
        side = getattr(pipe, "default_sample_size", None) or denoiser.config.sample_size
        sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
        height, width = (int(one * getattr(pipe, "vae_scale_factor", 1)) for one in sides)
        return int(asked.get("height") or height), int(asked.get("width") or width)

    def _filtered(self, output: Output) -> Output:
        """Let methods look at the images that were not refused; what they withhold is black."""
        changed: dict[int, np.ndarray] = {}
        kept = [index for index, refusal in enumerate(self.refusals) if refusal is None]
        if kept and any(method.overrides("post") for method in self.methods):
            arrays = output.arrays()
            for index, made in zip(kept, self._finish([arrays[index] for index in kept]), strict=True):
                self.flags[index] = made.flags if made.image is not None else made.flags[:-1]
                if made.image is None:
                    self.refusals[index] = made.flags[-1]
                elif not np.array_equal(made.image, arrays[index]):
                    changed[index] = made.image
        withheld = [index for index, refusal in enumerate(self.refusals) if refusal is not None]
        if withheld and kept:
            shape = output.arrays()[0].shape
            changed |= {index: np.zeros(shape, np.uint8) for index in withheld}
        for index in withheld:
            log.warning("image %d of %d is withheld and black: %s", index + 1, len(self.refusals), self.refusals[index])
        return output.replaced(changed, self.refusals)


def scheduler_name(scheduler: Any) -> str | None:
    """Return the name by which configs call a scheduler; None for one that they do not name."""
    kind = type(scheduler).__name__
    return next((name for name, (class_name, _) in SCHEDULERS.items() if class_name == kind), None)


def _parts(model: LoadedModel) -> tuple[Any, ...]:
    """Return what must stay as it was when methods were attached: the networks, and where the pipeline runs."""
    names = [name for name in model.pipe.components if name.startswith(("text_encoder", "tokenizer"))]
    device = str(getattr(model.pipe, "_execution_device", model.device))
    return (model.denoiser, *(getattr(model.pipe, name) for name in names), device,
            next(model.denoiser.parameters()).dtype)


@contextmanager
def acting_on_calls(calls: PlainCalls) -> Iterator[None]:
    """Let the pipeline's plain calls be served; leaving gives it its class back."""
    pipe = calls.model.pipe
    kind = type(pipe)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe:
            raise IncompatibleError("this pipeline is a copy of the one that a method is applied to.",
                                    "Remove the method before copying, and apply it to the copy.")
        return calls.serve(kind.__call__, args, kwargs)

    __call__.__doc__ = kind.__call__.__doc__
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    applied = "+".join(method.name for method in calls.methods)
    pipe.__class__ = type(kind.__name__, (kind,), {**names, "__call__": __call__, APPLIED: applied})
    try:
        yield
    finally:
        pipe.__class__ = kind
