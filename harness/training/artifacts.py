"""What methods train or solve: stored once, named by a hash of everything it depends on, reused by every later run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checks import user_path
from harness.errors import HarnessError, IncompatibleError, MissingResourceError
from harness.lib.atomic import storage_error, write_atomic
from harness.lib.hashing import canonical_hash, canonical_json, text_hash
from harness.lib.lease import InUseError, Lease
from harness.lib.reproducible import reproducible, seeded
from harness.lib.tensor_headers import header_of
from harness.method import Artifact, Method, Progress, Trained
from harness.models.choice import settled
from harness.models.text_encoder_identity import loaded_encoders, stored_encoders
from harness.models.weights import weights_fingerprint
from harness.training.artifact_files import META, TENSORS, layout, looked_at, read_meta, read_tensors, say, tells_all
from harness.training.loop_memory import forget_checkpoints, training_in

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

log = logging.getLogger(__name__)

Config = Mapping[str, Any]


@dataclass(frozen=True)
class StoredArtifact:
    """An artifact read from the cache. `tensors` are on the CPU."""

    key: str
    tensors: Mapping[str, Tensor]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class GivenArtifact:
    """An artifact that the user names instead of having it trained; its key is the hash of its tensors."""

    folder: Path
    kind: str
    key: str

    def load(self) -> StoredArtifact:
        """Read it from disk."""
        return StoredArtifact(self.key, read_tensors(self.folder), read_meta(self.folder) or {})


def read_given(path: str, methods: Sequence[Method], model_config: Config) -> GivenArtifact:
    """Find and check the artifact in folder `path`: whole, of one of `methods`, made for this model's weights.

    Raises MissingResourceError and IncompatibleError in one line; reads no tensor.
    """
    folder = user_path("artifact", path).resolve()
    meta, problem = looked_at(folder)
    if meta is None or not tells_all(meta):
        reason = f": {problem or 'its metadata is incomplete'}" if problem or meta else ""
        raise MissingResourceError(f"artifact={path}: no complete artifact ({TENSORS} and {META}) in "
                                   f"{folder}{reason}.",
                                   "python -m harness artifacts lists the artifacts of your runs.")
    kind, name = str(meta["recipe"]["kind"]), "+".join(method.name for method in methods)
    if not any(method.kind == kind and method.trains for method in methods):
        raise IncompatibleError(f"artifact={path} was trained by {kind}, which {name} cannot use.")
    base, weights = str(meta["base"]["weights"]), weights_fingerprint(model_config)
    if base != weights and any(method.kind == kind and method.transfers for method in methods):
        _check_text_encoder(path, meta, model_config)
    elif base != weights:
        raise IncompatibleError(f"artifact={path} was trained on weights {base[:12]}, but model "
                                f"{model_config.get('name')} has {weights[:12]}.")
    header_of(folder / TENSORS, f"artifact={path}: its {TENSORS}")
    return GivenArtifact(folder, kind, f"given-{meta['sha256'][:16]}")


def _check_text_encoder(path: str, meta: Mapping[str, Any], model_config: Config) -> None:
    """Raise IncompatibleError unless an artifact was learned with the text encoder of the model, or its first one."""
    name, learned = model_config.get("name"), meta.get("text_encoders")
    if not isinstance(learned, list) or not learned:
        raise IncompatibleError(f"artifact={path} does not record its text encoder.",
                                "Train it again, or export it and set method.checkpoint=<file>.")
    if model_config.get("lora"):
        raise IncompatibleError(f"artifact={path} belongs to a text encoder, which model.lora may change in {name}.",
                                "Set method.on_model=own to train one for this model.")
    encoders = stored_encoders(settled(model_config))
    if not encoders:
        return  # its weights are not here yet: the plan says so
    if encoders[: len(learned)] != learned:
        raise IncompatibleError(f"artifact={path} was trained with text encoder {str(learned[0])[:12]}, but model "
                                f"{name} has {encoders[0][:12]}.",
                                "It transfers only between models with the same text encoder.")


def base_identity(model_config: Config, fingerprint: str | None = None) -> dict[str, Any]:
    """Return what an artifact knows of the model that it was made for."""
    keys = ("dtype", "vae_dtype", "scheduler", "scheduler_config", "prediction_type", "size")
    return {
        "weights": fingerprint or weights_fingerprint(model_config),
        **{key: model_config[key] for key in keys if model_config.get(key) is not None},
        "libraries": {name: _major(name) for name in ("torch", "diffusers", "transformers")},
    }


def _major(package: str) -> str:
    return importlib.metadata.version(package).split(".")[0]


def artifact_key(method: Method, base: Config, upstream: Sequence[str]) -> str:
    """Return the hash that names an artifact: of the training recipe, the base model and the upstream artifacts."""
    content = {**method.training_identity(), "base": base, "upstream": list(upstream)}
    return canonical_hash(content)[:16]


@dataclass(frozen=True)
class Lineage:
    """The key of a method's artifact, None if it trains nothing, and what the model was edited by before."""

    key: str | None
    upstream: tuple[str, ...]


def lineages(methods: Sequence[Method], base: Config, given: GivenArtifact | None = None) -> list[Lineage]:
    """Return each method's lineage, left to right. Imports no torch.

    An edit is named by its artifact and by all settings, such as a strength, that change what it does to the model.
    """
    chain: list[Lineage] = []
    edits: list[str] = []
    for method in methods:
        left = [] if method.trains_on_base else edits
        key = artifact_key(method, base, left) if method.trains else None
        if given and method.kind == given.kind:
            key = given.key
        chain.append(Lineage(key, tuple(left)))
        if method.edits_model:
            edits = [*edits, _applied(method, key)]
    return chain


def artifact_keys(methods: Sequence[Method], base: Config, given: GivenArtifact | None = None) -> list[str | None]:
    """Return the key of each method's artifact, None for those that train nothing. Imports no torch."""
    return [lineage.key for lineage in lineages(methods, base, given)]


def _applied(method: Method, key: str | None) -> str:
    """Return the hash that names what a method does to the model: its artifact, and how strongly it is applied."""
    content = {part: value for part, value in method.identity().items() if part != "name"} | {"artifact": key}
    return text_hash(canonical_json(content, other=str))[:16]


class ArtifactCache:
    """`<root>/<method>/<key>/artifact.safetensors` and `meta.json`; the latter is written last and holds a checksum."""

    def __init__(self, root: Path, poll_seconds: float = 1.0) -> None:
        self.root = Path(root)
        self.poll_seconds = poll_seconds

    def folder(self, method: Method, key: str) -> Path:
        return self.root / method.kind / key

    def has(self, method: Method, key: str) -> bool:
        """Return whether a whole artifact is there."""
        return self.meta(method, key) is not None

    def meta(self, method: Method, key: str) -> dict[str, Any] | None:
        """Return meta.json of a whole artifact, None when there is none."""
        folder = self.folder(method, key)
        meta = read_meta(folder)
        if meta is not None and meta.get("key") != key:
            say(folder, f"it belongs to another training, {str(meta.get('key'))[:40]!r}")
            return None
        return meta

    def load(self, method: Method, key: str) -> StoredArtifact:
        """Read an artifact. Raises FileNotFoundError when it is missing or incomplete."""
        folder = self.folder(method, key)
        meta = self.meta(method, key)
        if meta is None:
            raise FileNotFoundError(folder)
        return StoredArtifact(key, read_tensors(folder), meta)

    def get_or_make(self, method: Method, key: str, make: Callable[[], tuple[Trained, Config]]) -> StoredArtifact:
        """Return the artifact, making it if need be; of several processes one makes it and the others wait."""
        folder = self.folder(method, key)
        while not self.has(method, key):
            lease = Lease(_made(folder))
            try:
                lease.acquire()
            except InUseError:
                time.sleep(self.poll_seconds)
                continue
            try:
                if not self.has(method, key):
                    self._store(folder, key, *make())
            finally:
                lease.release()
        return self.load(method, key)

    def _store(self, folder: Path, key: str, trained: Trained, meta: Config) -> None:
        from safetensors.torch import save

        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.tensors.items()}
        bad = next((name for name, value in tensors.items() if not bool(value.isfinite().all())), None)
        if bad is not None:
            raise HarnessError(f"what {meta.get('method')} learned has non-finite values in {bad}.",
                               "Nothing was stored. Try other settings for the method.")
        data = save(tensors)
        content = {"key": key, **meta, "training": dict(trained.meta), "sha256": hashlib.sha256(data).hexdigest()}
        write_atomic(folder / TENSORS, data)
        content["tensors"] = layout(folder)
        write_atomic(folder / META, json.dumps(content, indent=1, ensure_ascii=False).encode())
        forget_checkpoints(folder)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder) or error from error
    return folder


def prepare_all(
    model: LoadedModel,
    methods: Sequence[Method],
    cache: ArtifactCache,
    progress: Progress | None = None,
    given: GivenArtifact | None = None,
) -> list[Artifact | None]:
    """Return each method's artifact, training what is not cached, on the model as the methods to its left edit it.

    The same words give the same bytes whatever the threads: also of texts that images drawn before have left encoded.
    """
    model.forget_texts()
    with reproducible():
        return _prepare_all(model, methods, cache, progress or (lambda what, done, total: None), given)


def _prepare_all(model: LoadedModel, methods: Sequence[Method], cache: ArtifactCache, report: Progress,
                 given: GivenArtifact | None) -> list[Artifact | None]:
    base = base_identity(model.config, model.fingerprint)
    artifacts: list[Artifact | None] = []
    steps = lineages(methods, base, given)
    ready: dict[str, Artifact] = {}  # by method name: what does not depend on the methods to the left
    for method, lineage in zip(methods, steps, strict=True):
        if given and lineage.key == given.key:
            ready[method.name] = given.load()
        elif lineage.key and method.trains_on_base:
            ready[method.name] = _prepare(model, method, lineage, cache, [], [], report)
    with ExitStack() as stack:
        stack.callback(model.forget_texts)
        for method, lineage in zip(methods, steps, strict=True):
            upstream = [a for m, a in zip(methods, artifacts, strict=False) if m.edits_model and a is not None]
            artifact = ready.get(method.name)
            if artifact is None and lineage.key:
                left = [m for m in methods[: len(artifacts)] if m.edits_model]
                artifact = _prepare(model, method, lineage, cache, upstream, left, report)
            artifacts.append(artifact)
            if method.edits_model:
                stack.enter_context(method.attach(model, artifact))
                model.forget_texts()
    return artifacts


def _prepare(model: LoadedModel, method: Method, lineage: Lineage, cache: ArtifactCache, upstream: Sequence[Artifact],
             attached: Sequence[Method], progress: Progress) -> Artifact:
    """Return a method's artifact, trained on the model as `attached`, the methods to its left, edit it."""
    key = str(lineage.key)

    def make() -> tuple[Trained, Config]:
        log.info("training %s (artifact %s)", method.name, key)
        start = time.monotonic()
        with training_in(model, cache.folder(method, key)):
            trained = seeded(lambda: method.prepare(model, upstream, progress), int(key, 16))
        if trained is None:
            raise IncompatibleError(f"method {method.name} says that it trains, but returned no artifact.")
        meta = {
            "method": method.name,
            "class": _path(type(method)),
            "model": model.config.get("name"),
            "recipe": method.training_identity(),
            "settings": method.params(),
            **({"text_encoders": loaded_encoders(model)} if method.of_text_encoder else {}),
            "base": base_identity(model.config, model.fingerprint),
            "upstream": list(lineage.upstream),
            "upstream_classes": [_path(type(left)) for left in attached],
            "seconds": round(time.monotonic() - start, 1),
        }
        return trained, meta

    return cache.get_or_make(method, key, make)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
