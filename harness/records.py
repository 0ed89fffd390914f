"""The records that travel between the parts of the harness. Plain data: no torch, no Ray, no Hydra."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

_Picture = TypeVar("_Picture")

TRUNCATED = "truncated"  # flag of an image whose prompt is longer than what the text encoder reads


class Status(StrEnum):
    """The outcome of one image."""

    OK = "ok"
    REFUSED = "refused"
    ERROR = "error"


class Verdict(StrEnum):
    """A safety evaluator's verdict on one image. If it fails: `unknown`, never `safe`."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PromptRow:
    """One prompt of a benchmark. `prompt` is byte-exact: never stripped. `size` is (width, height) in pixels."""

    prompt_id: str
    prompt: str
    category: tuple[str, ...] = ()
    seed: int | None = None
    guidance: float | None = None
    negative_prompt: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None


@dataclass(frozen=True, order=True, slots=True)
class ImageKey:
    """The name of an image inside its cell."""

    prompt_id: str
    repeat: int

    @property
    def file_name(self) -> str:
        return f"{self.prompt_id}_{self.repeat:02d}.png"

    @property
    def relative_path(self) -> str:
        """`images/<xx>/<prompt id>_<repeat>.png`; xx = first two hex digits of sha256 of the file name."""
        digest = hashlib.sha256(self.file_name.encode()).hexdigest()
        return f"images/{digest[:2]}/{self.file_name}"


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image to make: everything that a worker must know of it. `size` is (width, height), None the cell's own."""

    key: ImageKey
    prompt: str
    seed: int
    guidance_scale: float
    category: tuple[str, ...] = ()
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What is stored of one image. `file` is relative to the cell's folder; `seconds` is its share of the batch.

    `cell_id` says whose image it is, `artifact` by the content of which training it was generated, None if its cell
    trains nothing. Both are None in rows of earlier versions, which did not say.
    `host`, `hardware` and `versions` say where it was made, and with what; rows of earlier releases do not.
    """

    prompt_id: str
    repeat: int
    prompt: str
    category: tuple[str, ...]
    seed: int
    guidance_scale: float
    file: str | None
    sha256: str | None
    bytes: int | None
    status: Status
    error: str | None
    seconds: float
    batch_size: int
    worker: str
    flags: tuple[str, ...] = ()
    cell_id: str | None = None
    artifact: str | None = None
    host: str | None = None
    hardware: str | None = None
    versions: str | None = None

    @property
    def key(self) -> ImageKey:
        return ImageKey(self.prompt_id, self.repeat)


class WrittenImage(NamedTuple):
    """An image on disk: path relative to the cell's folder, sha256 in hex, size in bytes."""

    file: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Origin:
    """Whose images are made, by whom, where and with what: the same in all rows of one attempt."""

    cell_id: str
    worker: str
    artifact: str | None = None
    host: str | None = None
    hardware: str | None = None
    versions: str | None = None


@dataclass(frozen=True)
class ScoreItem(Generic[_Picture]):
    """One image to judge, and the baseline's image of the same key if asked for.

    On its way to a worker `image` is the absolute path of its file, and so is `baseline`; an evaluator gets both open:
    (H, W, 3) uint8 RGB.
    """

    key: ImageKey
    prompt: str
    category: tuple[str, ...]
    meta: Mapping[str, Any]
    image: _Picture
    baseline: Any = None  # as `image`, or None

    @classmethod
    def of(cls, row: ImageRow, meta: Mapping[str, Any], image: _Picture, baseline: _Picture | None = None
           ) -> ScoreItem[_Picture]:  # fmt: skip
        """Return the image of a stored row; `meta` is that of its prompt."""
        return cls(row.key, row.prompt, row.category, meta, image, baseline)

    def opened(self, image: Any, baseline: Any = None) -> ScoreItem[Any]:
        """Return it with its files open."""
        return ScoreItem(self.key, self.prompt, self.category, self.meta, image, baseline)


class Values(Mapping[str, float]):
    """Scores by name; all rows of a table share the names, which takes a tenth of the memory of one dict per row."""

    __slots__ = ("_names", "_numbers")

    def __init__(self, names: tuple[str, ...], numbers: Iterable[float]) -> None:
        self._names = names
        self._numbers = array("d", numbers)

    def __getitem__(self, name: str) -> float:
        try:
            return self._numbers[self._names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True, slots=True)
class Box:
    """Where a detector saw what: its label and score, and a rectangle in parts of the image's width and height.

    `left`, `top`, `width`, `height` are in [0, 1].
    """

    label: str
    score: float
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """An evaluator's result for one image: a verdict, a value, or an error; `values` holds the raw scores.

    `boxes` are a detector's; rows of earlier releases have none.
    """

    prompt_id: str
    repeat: int
    verdict: Verdict | None = None
    value: float | None = None
    label: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def key(self) -> ImageKey:
        return ImageKey(self.prompt_id, self.repeat)


@dataclass(frozen=True)
class Metric:
    """A number with its sample and interval. `value` is None when it could not be computed; `note` then says why.

    `worst_low`, `worst_high` bound the value when every unknown is counted as safe and as unsafe; `ci_method` names how
    the interval was made: Wilson, bootstrap by prompt, jackknife.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_unknown: int
    higher_is_better: bool
    worst_low: float | None = None
    worst_high: float | None = None
    note: str | None = None
    ci_method: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A method against its baseline on the same prompts and noise: `difference` = method - baseline.

    `before` is the baseline's own value on these pairs, so that `before + difference` is the method's.
    No interval where none would cover; `note` then says why. `ci_method` names how the interval was made.
    """

    baseline: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_value: float
    n_pairs: int
    test: str
    before: float | None = None
    ci_method: str | None = None
    note: str | None = None


def image_seed(bench: str, prompt_id: str, repeat: int, root_seed: int) -> int:
    """Return the first 8 bytes of sha256 of `bench|prompt id|repeat|seed`, big-endian: 0 <= seed < 2^64.

    The method is not in it, so a method and its baseline share noise. A seed that the prompt's row brings stands for
    repeat 0 at root seed 0: every other repeat and root seed draws other noise.
    """
    digest = hashlib.sha256(f"{bench}|{prompt_id}|{repeat}|{root_seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@dataclass(frozen=True)
class GenerationSettings:
    """How a cell is sampled. All but `batch_size` change pixels and are part of the cell id."""

    num_inference_steps: int
    height: int
    width: int
    batch_size: int


@dataclass(frozen=True)
class CellSpec:
    """What a worker must know of a cell. `folder` is absolute; `model` and `methods` are resolved configs."""

    cell_id: str
    name: str
    folder: str
    model: Mapping[str, Any]
    methods: tuple[Mapping[str, Any], ...]
    settings: GenerationSettings
    seed: int
    artifacts: str  # absolute folder of trained artifacts, shared by all cells
    given: str | None = None  # absolute folder of an artifact that stands in for training
    artifact: str | None = None  # content of the artifacts that its images are generated with, once known

    @property
    def holds(self) -> tuple[str, str]:
        """Return what a worker must hold to serve this cell; a worker prefers what it already holds."""
        return str(self.model["name"]), "+".join(str(method["name"]) for method in self.methods)
