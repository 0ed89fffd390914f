"""Published checkpoints: where a file is, what is in it, whether it fits. Nothing is unpickled without restriction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.declared import Values
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.lib.hub_cache import cached_snapshot, hub_cache
from harness.lib.tensor_headers import FileFault, TensorEntry, finite, shown
from harness.lib.torch_headers import content_of
from harness.lib.wanted import Download, HubFiles, names_in
from harness.lib.weights import sha256_of
from harness.method import Method
from harness.models.folder import model_folder
from harness.models.part_tensors import plain_tensors, read_checkpoint
from harness.models.weight_files import CHECKPOINTS, read_json
from harness.setting_types import OneOrMore, Text, UnitInterval

__all__ = ["finite", "read_checkpoint"]  # beside its own

HUB = "hf://"


def checkpoint_path(source: str, revision: str | None = None) -> Path:
    """Return where a checkpoint is: a path, or `hf://owner/name/path` in the hub's local cache. Never downloads."""
    if not source.startswith(HUB):
        return Path(source).expanduser()
    owner, name, *rest = [*source.removeprefix(HUB).split("/"), "", ""]
    if not owner or not name:
        raise InvalidValueError(f"method.checkpoint={source}: {HUB}owner/name, or {HUB}owner/name/path is expected.")
    snapshot = cached_snapshot(f"{owner}/{name}", revision or "main")
    absent = hub_cache() / f"models--{owner}--{name}" / "snapshots" / (revision or "main")
    return Path(snapshot or absent, *rest)


def check_width(name: str, files: Sequence[Path], model_config: Mapping[str, Any], part: str, setting: str, ending: str
                ) -> None:
    """Raise IncompatibleError if a checkpoint's tensors named *`ending` are not as wide as the model's config says.

    `setting` is of the config of the model's `part`. Reads headers only; is silent where files tell nothing.
    """
    folder = model_folder(model_config) if model_config.get("source") else None
    width = read_settings(folder / part / "config.json").get(setting) if folder else None
    for file in files if isinstance(width, int) else ():
        tensors = plain_tensors(content_of(file), lambda one: isinstance(one, TensorEntry)) if file.is_file() else {}
        widths = {one.shape[-1] for tensor, one in tensors.items() if tensor.endswith(ending) and one.shape}
        if widths - {width}:
            raise IncompatibleError(f"the checkpoint {file} of method {name} was made for {max(widths)} text features, "
                                    f"but model {model_config.get('name')} has {width}.")


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a config.json; none where there is none that can be read."""
    try:
        return read_json(path)
    except FileFault:
        return {}


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of `names` that is in `folder`, else the first of them; `folder` itself if it is a file."""
    if folder.is_file():
        return folder
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def check_layout(path: Path, tensors: Mapping[str, Any], expected: Mapping[str, Sequence[int]]) -> None:
    """Raise InvalidValueError, in one line, unless a file holds exactly the expected names with their shapes."""
    absent = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if len(absent) == len(expected) and extra:
        raise InvalidValueError(f"the checkpoint {path} is for another method or model: it has {shown(extra[0])} "
                                f"and none of the {len(expected)} expected names, such as {next(iter(expected))}.")
    if absent or extra:
        named = f"{absent[0]} is missing" if absent else f"{shown(extra[0])} is not in the model"
        raise InvalidValueError(f"the checkpoint {path} does not fit: {named} ({len(absent)} of {len(expected)} names "
                                f"are missing, {len(extra)} are unknown).")
    for name, shape in expected.items():
        size = tuple(getattr(tensors[name], "shape", ()))
        if size != tuple(shape):
            raise InvalidValueError(f"the checkpoint {path} does not fit: {name} has shape {size}, the model has "
                                    f"{tuple(shape)}.")


@dataclass(frozen=True)
class CheckpointMethod(Method):
    """A method that somebody else trained. Its identity holds the files' sha256, never their paths."""

    checkpoint: OneOrMore[Text] | None = None
    revision: Text | None = None
    strength: UnitInterval = 1.0

    single: ClassVar[bool] = True  # one checkpoint, not a list
    file_names: ClassVar[tuple[str, ...]] = ("model.safetensors",)  # of a folder: the first that there is
    beside: ClassVar[tuple[str, ...]] = ()  # of a folder: small files that are read, too
    how_to_get: ClassVar[str]  # one sentence: where the authors publish it

    @classmethod
    def completed(cls, values: Values) -> Values:
        return values | {"checkpoint": values["checkpoint"] or ()}

    def __post_init__(self) -> None:
        if self.single and len(self.checkpoint or ()) > 1:
            raise InvalidValueError(f"method.checkpoint has {len(self.checkpoint or ())} paths, but method {self.name} "
                                    "reads one.")

    @property
    def paths(self) -> tuple[Path, ...]:
        """The checkpoints: files or folders."""
        assert isinstance(self.checkpoint, tuple)
        return tuple(checkpoint_path(source, self.revision) for source in self.checkpoint)

    def files(self) -> list[Path]:
        """Return every file that it reads."""
        return list(self.paths)

    def params(self) -> dict[str, Any]:
        hashes = [sha256_of(file) or "absent" for file in self.files()]
        return {k: v for k, v in super().params().items() if k != "revision"} | {"checkpoint": hashes}

    def missing(self) -> str | None:
        if not self.strength:
            return None
        if not self.checkpoint:
            return f"method {self.name} needs method.checkpoint=<path>. {self.how_to_get}"
        absent = next((file for file in self.files() if not file.is_file()), None)
        hub = any(source.startswith(HUB) for source in self.checkpoint)
        how = "python -m harness prefetch with the same settings downloads it." if hub else self.how_to_get
        return f"the checkpoint {absent} of method {self.name} is missing. {how}" if absent else None

    def check_contents(self, model_config: Mapping[str, Any]) -> None:
        """Compare files that are here with the model, by their headers, before anything loads. Raises HarnessError."""
        if self.strength and not self.missing():
            self.compare(model_config)

    def compare(self, model_config: Mapping[str, Any]) -> None:
        """Raise HarnessError unless the files are this method's and fit the model, as far as headers tell."""

    def downloads(self) -> Sequence[Download]:
        """Return the files of the hub's repositories that `hf://` checkpoints name."""
        assert isinstance(self.checkpoint, tuple)
        hubs = [source.removeprefix(HUB).split("/", 2) for source in self.checkpoint if source.startswith(HUB)]
        return [self._of_hub("/".join(parts[:2]), "".join(parts[2:]).strip("/")) for parts in hubs]

    def _of_hub(self, repo: str, place: str) -> HubFiles:
        if place.endswith(CHECKPOINTS):
            return HubFiles(repo, self.revision, (place,))
        return self.of_hub_folder(repo, place)

    def of_hub_folder(self, repo: str, place: str) -> HubFiles:
        """Return what is read of a folder of a repository, by the names that the loader looks for."""
        return HubFiles(repo, self.revision, names_in(place, self.beside), names_in(place, self.file_names))

    def require(self) -> None:
        """Raise MissingResourceError unless all files are there."""
        problem = self.missing()
        if problem:
            raise MissingResourceError(problem)
