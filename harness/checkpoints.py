"""Published checkpoints: where a file is, what is in it, whether it fits. Nothing is unpickled without restriction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluators.weights import sha256_of
from harness.method import Method
from harness.model_files import cached_snapshot, hub_cache, model_folder
from harness.settings import check_file, check_number
from harness.sources import Download, HubFiles, names_in

if TYPE_CHECKING:
    from torch import Tensor

HUB = "hf://"


def checkpoint_path(source: str, revision: str | None = None) -> Path:
    """Return where a checkpoint is: a path, or `hf://owner/name/path` in the hub's local cache. Never downloads."""
    if not source.startswith(HUB):
        return Path(source).expanduser()
    owner, name, *rest = [*source.removeprefix(HUB).split("/"), "", ""]
    if not owner or not name:
        raise InvalidValueError(f"method.checkpoint={source}: {HUB}owner/name, or {HUB}owner/name/path, is needed.")
    snapshot = cached_snapshot(f"{owner}/{name}", revision or "main")
    absent = hub_cache() / f"models--{owner}--{name}" / "snapshots" / (revision or "main")
    return Path(snapshot or absent, *rest)


def check_width(name: str, files: Sequence[Path], model_config: Mapping[str, Any], part: str, setting: str, ending: str
                ) -> None:
    """Raise IncompatibleError where a checkpoint's tensors named *`ending` are not as wide as the model's config says.

    `setting` is of the config of the model's `part`. Reads headers only; is silent where files tell nothing.
    """
    folder = model_folder(model_config) if model_config.get("source") else None
    own = _json(folder / part / "config.json").get(setting) if folder else None
    for file in files if isinstance(own, int) else ():
        widths = {entry["shape"][-1] for tensor, entry in safetensors_header(file).items() if tensor.endswith(ending)}
        if widths - {own}:
            raise IncompatibleError(f"the checkpoint {file} of method {name} was made for {max(widths)} text features, "
                                    f"and model {model_config.get('name')} has {own}.")


def safetensors_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's header, names to shapes and types; empty where there is none."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError, MemoryError, OverflowError):
        return {}
    return header


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of `names` that is in `folder`, else the first of them; `folder` itself if it is a file."""
    if folder.is_file():
        return folder
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a safetensors file, or a torch file of plain tensors: its content and its metadata.

    Raises MissingResourceError, or InvalidValueError where it cannot be read without running code from it.
    """
    import pickle

    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingResourceError(f"the checkpoint {path} is missing.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stream:
                return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidValueError(f"the checkpoint {path} cannot be read as plain tensors: {reason}") from None
    if not isinstance(content, dict):
        raise InvalidValueError(f"the checkpoint {path} holds a {type(content).__name__}, not named tensors.")
    return content, {}


def check_layout(path: Path, found: Mapping[str, Any], expected: Mapping[str, Sequence[int]]) -> None:
    """Raise InvalidValueError, in one line, unless a file holds exactly the expected names with their shapes."""
    absent = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if absent or extra:
        named = f"{absent[0]} is not in it" if absent else f"{extra[0]} has no place in the model"
        raise InvalidValueError(f"the checkpoint {path} does not fit: {named} ({len(absent)} of {len(expected)} names "
                                f"are absent, {len(extra)} are unknown).")
    for name, shape in expected.items():
        size = tuple(getattr(found[name], "shape", ()))
        if size != tuple(shape):
            raise InvalidValueError(f"the checkpoint {path} does not fit: {name} has shape {size}, the model has "
                                    f"{tuple(shape)}.")


def finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise InvalidValueError naming the first tensor with a value that is not finite."""
    bad = next((name for name, value in tensors.items() if not value.isfinite().all()), None)
    if bad:
        raise InvalidValueError(f"the checkpoint {path} is broken: {bad} has values that are not finite.")


@dataclass(frozen=True)
class CheckpointMethod(Method):
    """A method that somebody else trained. Its identity holds the files' sha256, never their paths."""

    checkpoint: str | Sequence[str] | None = None
    revision: str | None = None
    strength: float = 1.0

    single: ClassVar[bool] = True  # one checkpoint, not a list
    file_names: ClassVar[tuple[str, ...]] = ("model.safetensors",)  # of a folder: the first that there is
    how_to_get: ClassVar[str]  # one sentence: where the authors publish it

    def __post_init__(self) -> None:
        given = self.checkpoint
        sources = () if given is None else (given,) if isinstance(given, str) else given
        if not isinstance(sources, (list, tuple)) or not all(isinstance(s, str) and s for s in sources):
            raise InvalidValueError(f"method.checkpoint={given!r}: a path is needed.")
        if self.single and len(sources) > 1:
            raise InvalidValueError(f"method.checkpoint has {len(sources)} paths, and method {self.name} reads one.")
        object.__setattr__(self, "checkpoint", tuple(sources))
        check_file("method.revision", self.revision)
        object.__setattr__(self, "strength", check_number("method.strength", self.strength, *self.strength_range()))

    def strength_range(self) -> tuple[float, float]:
        return 0.0, 1.0

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
        return f"the checkpoint {absent} of method {self.name} is missing. {self.how_to_get}" if absent else None

    def downloads(self) -> Sequence[Download]:
        """Return the files of the hub's repositories that `hf://` checkpoints name."""
        assert isinstance(self.checkpoint, tuple)
        hubs = [source.removeprefix(HUB).split("/", 2) for source in self.checkpoint if source.startswith(HUB)]
        return [self._of_hub("/".join(parts[:2]), "".join(parts[2:])) for parts in hubs]

    def _of_hub(self, repo: str, place: str) -> HubFiles:
        if Path(place).suffix in (".safetensors", ".bin", ".pt", ".pth"):
            return HubFiles(repo, self.revision, (place,))
        return HubFiles(repo, self.revision, names_in(place, ("*.json",)), names_in(place, self.file_names))

    def require(self) -> None:
        """Raise MissingResourceError unless all files are there."""
        problem = self.missing()
        if problem:
            raise MissingResourceError(problem)
