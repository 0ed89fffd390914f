"""`harness.apply`: a method on a user's diffusers pipeline, acting on plain calls until it is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.api.pipelines import command_to_train, draws_of_text, family_of_pipeline, model_name_of, model_of
from harness.api.settings import check_names, merged
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, unknown_name
from harness.lib.targets import build
from harness.method import Method, check_composition, check_published, publish_concepts
from harness.sampling.session import attached
from harness.training.artifacts import ArtifactCache, artifact_keys, base_identity, prepare_all, read_given

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel
    from harness.sampling.session import Session

Config = Mapping[str, Any]
Named = str | Method


class Applied:
    """What `harness.apply` returns: leave its `with`, or call `remove`, and the pipeline is as it was, to the byte.

    Attributes:
        names: the names of the methods that act, left to right.
        refusals: for each image of the last call, why it was withheld and is black; None for an image that was not.
        flags: for each image of the last call, what the methods noted of it.
    """

    def __init__(self, model: LoadedModel, methods: Sequence[Method], artifacts: Sequence[Any]) -> None:
        self.names = tuple(method.name for method in methods)
        self._stack = ExitStack()
        self._session: Session = self._stack.enter_context(attached(model, methods, artifacts))
        self._active = True
        type(model.pipe).applied_methods = self  # kept while they act, whatever becomes of what `apply` returned

    @property
    def active(self) -> bool:
        """Whether the methods still act."""
        return self._active

    @property
    def refusals(self) -> list[str | None]:
        return list(self._session.calls.refusals)

    @property
    def flags(self) -> list[tuple[str, ...]]:
        return list(self._session.calls.flags)

    def remove(self) -> None:
        """Undo it: weights, hooks and the pipeline's call are as before. A second time does nothing."""
        self._active = False
        self._stack.close()

    def __enter__(self) -> Self:
        if not self._active:
            raise IncompatibleError(f"method {'+'.join(self.names)} was removed from the pipeline.",
                                    "Apply it again: harness.apply(...).")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:  # fmt: skip
        self.remove()

    def __repr__(self) -> str:
        return f"<{'+'.join(self.names)} {'applied' if self._active else 'removed'}>"


def apply(
    method: Named | Sequence[Named],
    pipe: Any,
    *,
    model: str | None = None,
    artifact: str | Path | None = None,
    results: str | Path = "results",
    train: bool = False,
    **settings: Any,
) -> Applied:
    """Apply a method to a diffusers pipeline, so that plain calls of it, `pipe("a prompt")`, follow the method.

    It acts at once, and until the `with` is left or `remove()` is called (`pipe.applied_methods` is what acts):

        with harness.apply("sld_max", pipe, threshold=0.5):
            image = pipe("a prompt").images[0]

    At any batch size, number of images a prompt, negative prompt, scheduler and guidance scale, the images are those
    of a run with the same noise and settings. A prompt that a method refuses, and an image that it withholds, come
    back black; `output.refusals` says why. Where the method cannot act, the call raises and nothing is sampled.

    Args:
        method: the name of a config of conf/method/, a `harness.Method`, or a list of them, applied left to right.
        pipe: a diffusers pipeline of Stable Diffusion 1, 2, XL or 3, or Flux, from text, image-to-image or inpainting;
            or of DeepFloyd IF's first stage.
        model: the config of conf/model/ whose concepts the method takes; by default that of the pipeline's weights.
        artifact: the folder of a trained artifact to use (`python -m harness artifacts` lists them).
        results: the results folder in which trained artifacts are looked for and kept.
        train: train what is not there yet, on this pipeline. Minutes to hours.
        settings: settings of the method by name, nested ones as mappings. For a list: one mapping by method name.

    Raises:
        HarnessError: in one line, for unknown names and settings, a pipeline that the method does not fit, a missing
            artifact or checkpoint, or a method that is already applied.
    """
    family = family_of_pipeline(pipe)
    methods, config = _composed(method, model or model_name_of(pipe), settings)
    if model is not None and config.get("family") not in (None, family):
        raise IncompatibleError(f"model={model} is {config['family']}, and the pipeline is a {type(pipe).__name__}.",
                                "Leave model out, or name a model of the pipeline's family.")
    check_composition(methods)
    check_published(methods)
    loaded = model_of(pipe, config, any(one.trains for one in methods))
    guidance = max(2.0, float(loaded.config.get("guidance_scale") or 7.5))  # that of a call is checked in the call
    for one in methods:
        one.check(loaded.config, guidance)
        if problem := one.missing():
            raise MissingResourceError(problem)
    methods = publish_concepts(methods)
    as_configured = not settings and all(isinstance(one, str) for one in _listed(method))
    training = _Training(None if artifact is None else str(artifact), Path(results), train, as_configured)
    return Applied(loaded, methods, _artifacts(loaded, methods, training))


def _listed(method: Named | Sequence[Named]) -> list[Named]:
    return list(method) if isinstance(method, (list, tuple)) else [method]  # type: ignore[list-item]


def _composed(method: Named | Sequence[Named], model: str, settings: Config) -> tuple[list[Method], Config]:
    """Return the methods, built with their settings, and the config of the model that they take concepts of."""
    given = _listed(method)
    if wrong := next((one for one in given if not isinstance(one, (str, Method))), None):
        raise InvalidValueError(f"method={str(wrong)[:80]!r}: expected the name of a method, or a harness.Method.")
    names = [one for one in given if isinstance(one, str)]
    check_names("method", names)
    job = compose_jobs([f"method=[{','.join(names)}]" if names else "method=none", f"model={model}"], multirun=False)[0]
    configs = iter(job.methods)
    own = _settings_of([one if isinstance(one, str) else one.name for one in given], settings)
    methods = []
    for one in given:
        if isinstance(one, str):
            methods.append(build(merged(next(configs), own.get(one, {})), Method))
        elif own.get(one.name):
            raise InvalidValueError(f"settings of method {one.name} are given beside the method itself.",
                                    "Make it with them.")
        else:
            methods.append(one)
    return methods, job.model


def _settings_of(names: Sequence[str], settings: Config) -> Config:
    """Return the settings of each method by its name."""
    if len(names) == 1:
        return {names[0]: settings} if settings else {}
    for name, values in settings.items():
        if name not in names:
            raise unknown_name("method of the list", name, names)
        if not isinstance(values, Mapping):
            raise InvalidValueError(f"{name}={str(values)[:80]}: expected a mapping of its settings.")
    return settings


@dataclass(frozen=True)
class _Training:
    """Where artifacts are from: the user's folder, a results folder, or a training, if the user wants one."""

    artifact: str | None
    results: Path
    train: bool
    as_configured: bool  # no setting was changed: a plain command trains it


def _artifacts(model: LoadedModel, methods: Sequence[Method], wanted: _Training) -> Sequence[Any]:
    """Return each method's artifact: given, found in the results folder, or trained where that was asked for."""
    given = None
    if wanted.artifact is not None:
        given = read_given(wanted.artifact, methods, _located(model))
    elif not any(method.trains for method in methods):
        return [None] * len(methods)
    cache = ArtifactCache(wanted.results.expanduser().resolve() / "artifacts")
    keys = artifact_keys(methods, base_identity(model.config, model.fingerprint), given)
    absent = [method.name for method, key in zip(methods, keys, strict=True)
              if key and not (given and key == given.key) and not cache.has(method, key)]
    if absent and wanted.train and not draws_of_text(model.pipe):
        raise IncompatibleError(f"method {absent[0]} trains on images of text, and this is a "
                                f"{type(model.pipe).__name__}.", "Train it on the text-to-image pipeline first.")
    if absent and not wanted.train:
        command = command_to_train(model.config, [method.name for method in methods]) if wanted.as_configured else None
        raise MissingResourceError(
            f"method {absent[0]} has to be trained first, and {cache.root} has no artifact of it for these weights and "
            f"settings.", f"Pass train=True, or artifact=<folder>{f', or run: {command}' if command else ''}.")
    return prepare_all(model, methods, cache, None, given)


def _located(model: LoadedModel) -> Config:
    """Return the model's config. Raises IncompatibleError where its weights are not those of any files."""
    if model.fingerprint.startswith("memory:"):
        raise IncompatibleError("the pipeline's weights are not those of the files that it names, so that no artifact "
                                "is known to fit them.", "Leave artifact out and pass train=True.")
    return model.config
