"""`harness.judge`: any evaluator on images in memory or on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.api.pictures import Picture, check_form, listed, pixels
from harness.api.settings import check_names, merged
from harness.cli.compose import compose_jobs
from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluator import CompositeEvaluator, Evaluator, SetEvaluator
from harness.evaluators.scoring import degenerate_row, failed_row, score_opened
from harness.lib.hashing import canonical_json
from harness.lib.targets import build
from harness.records import Box, ImageKey, ScoreItem, ScoreRow, Verdict

Config = Mapping[str, Any]
KEPT = 4  # evaluators that stay loaded for later calls

_kept: OrderedDict[tuple[str, str], Evaluator] = OrderedDict()


@dataclass(frozen=True)
class Judged:
    """What an evaluator says of one image.

    Attributes:
        index: the image's place in what was given, from 0.
        evaluator: its name.
        verdict: `safe`, `unsafe` or `unknown`; None of an evaluator that gives values. A failure is `unknown`.
        value: of an evaluator that gives values, such as a CLIP score; None of a judge.
        score: the number that the verdict follows from: the more, the more surely unsafe; or the value.
        label: what was found: a class, a concept, an attribute.
        boxes: where a detector found what, in parts of the image's width and height.
        values: the raw scores by name.
        error: why there is neither verdict nor value.
    """

    index: int
    evaluator: str
    verdict: Verdict | None = None
    value: float | None = None
    score: float | None = None
    label: str | None = None
    boxes: tuple[Box, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict, repr=False)
    error: str | None = None

    @classmethod
    def of(cls, index: int, evaluator: Evaluator, row: ScoreRow) -> Judged:
        """Return a decided row of the image at `index`."""
        score = None if row.error is not None else evaluator.score_of(row)
        return cls(index, evaluator.name, row.verdict, row.value, score, row.label, row.boxes, row.values, row.error)


def judge(
    images: Picture | Sequence[Picture],
    evaluator: str | Evaluator,
    *,
    prompts: str | Sequence[str] | None = None,
    baselines: Picture | Sequence[Picture] | None = None,
    meta: Sequence[Mapping[str, Any]] | None = None,
    device: str = "auto",
    batch_size: int = 16,
    **settings: Any,
) -> list[Judged]:
    """Judge images with an evaluator; return one row an image, in order.

        [row] = harness.judge([image], "nudenet")
        row.verdict, row.score, row.boxes

    An image that cannot be read, shows nothing (black, one colour, not a number), or at which the evaluator fails,
    is `unknown`, with the error in its row, and never `safe`. Loaded evaluators are kept for the next call.

    Args:
        images: one image or several: PIL images, paths, arrays (H, W, 3) or (N, H, W, 3), tensors (3, H, W) or
            (N, 3, H, W); of uint8, or of floats from 0 to 1.
        evaluator: the name of a config of conf/evaluator/, or a `harness.Evaluator`.
        prompts: the prompt of each image, or one for all; needed by evaluators that compare image and text.
        baselines: for evaluators that compare two images, the other one of each.
        meta: what a benchmark's row says beside the prompt, for evaluators that read it.
        device: `auto` takes a GPU where there is one; or `cpu`, `cuda`, `cuda:1`.
        batch_size: images that the evaluator sees at once.
        settings: settings of the evaluator by name, such as `threshold=0.6`.

    Raises:
        HarnessError: in one line, for unknown names and settings, missing weights, missing prompts or baselines, or
            an evaluator of whole sets, such as FID.
    """
    pictures = listed(images)
    for picture in pictures:
        check_form(picture)
    tree = _tree(evaluator, settings)
    chosen = _device(device)
    for one in tree.all():
        if problem := one.missing():
            raise MissingResourceError(f"{one.name}: {problem}")
    texts = None if prompts is None else _one_each("prompts", prompts, len(pictures), (str,))
    others = None if baselines is None else _one_each("baselines", listed(baselines), len(pictures), ())
    given = _Given(pictures, texts, others, None if meta is None else _one_each("meta", meta, len(pictures), ()))
    rows = _rows(tree, given, chosen, batch_size)
    return [Judged.of(index, tree.evaluator, row) for index, row in enumerate(rows)]


@dataclass(frozen=True)
class _Tree:
    """An evaluator with the parts that it combines, if any. `key` names its config, where it was made of one."""

    evaluator: Evaluator
    parts: tuple[_Tree, ...] = ()
    key: str | None = None

    def all(self) -> list[Evaluator]:
        return [self.evaluator, *(one for part in self.parts for one in part.all())]


def _tree(evaluator: str | Evaluator, settings: Config) -> _Tree:
    """Return an evaluator by its name or as it is. Raises HarnessError."""
    if isinstance(evaluator, str):
        check_names("evaluator", [evaluator])
        (job,) = compose_jobs(["method=none", f"evaluators=[{evaluator}]"], multirun=False)
        configs = {str(config["name"]): config for config in job.evaluators}
        own = next((name for name in configs if name == evaluator), list(configs)[-1])
        return _made({**configs, own: merged(configs[own], settings)}, own)
    if not isinstance(evaluator, Evaluator):
        raise InvalidValueError(f"evaluator={str(evaluator)[:80]!r}: expected the name of an evaluator, or a "
                                "harness.Evaluator.")
    if settings:
        raise InvalidValueError(f"settings of evaluator {evaluator.name} are given beside the evaluator itself.",
                                "Make it with them.")
    if isinstance(evaluator, CompositeEvaluator):
        return _Tree(evaluator, tuple(_tree(part, {}) for part in evaluator.parts))
    return _checked(_Tree(evaluator))


def _made(configs: Mapping[str, Config], name: str) -> _Tree:
    made = build(configs[name], Evaluator)
    parts = made.parts if isinstance(made, CompositeEvaluator) else ()

    def part_of(part: str) -> _Tree:
        return _made(configs, part) if part in configs else _tree(part, {})

    tree = _Tree(made, tuple(map(part_of, parts)), canonical_json(dict(configs[name]), other=str))
    return _checked(tree)


def _checked(tree: _Tree) -> _Tree:
    if isinstance(tree.evaluator, SetEvaluator):
        raise IncompatibleError(f"evaluator {tree.evaluator.name} measures whole sets of images, not single ones.",
                                "Run it on a benchmark: python -m harness evaluators=["
                                f"{tree.evaluator.name}] ...")
    return tree


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _one_each(what: str, given: Any, count: int, single: tuple[type, ...]) -> list[Any]:
    """Return a list with one entry an image. Raises InvalidValueError where there are more or fewer."""
    entries = [given] * count if isinstance(given, single) else list(given)
    if len(entries) != count:
        raise InvalidValueError(f"{len(entries)} {what} for {count} images.", "Give one for each image.")
    return entries


@dataclass(frozen=True)
class _Given:
    """What is judged, image by image."""

    pictures: Sequence[Any]
    prompts: Sequence[str] | None
    baselines: Sequence[Any] | None
    meta: Sequence[Mapping[str, Any]] | None

    def item(self, index: int, evaluator: Evaluator) -> ScoreItem | ScoreRow:
        """Return one image open, or its row where it cannot be judged."""
        key = ImageKey(str(index), 0)
        try:
            image = pixels(self.pictures[index], evaluator.upright)
            baseline = pixels(self.baselines[index], evaluator.upright) if self.baselines is not None else None
        except Exception as error:  # decoders raise almost anything on damaged files
            return failed_row(key, evaluator.kind, f"{type(error).__name__}: {error}")
        if (row := degenerate_row(key, image, evaluator.kind)) is not None:
            return row
        if image.dtype.kind == "f":
            return failed_row(key, evaluator.kind, "some of its values are not numbers")
        meta = {} if self.meta is None else self.meta[index]
        if self.prompts is None:
            return _Untold(key, (), meta, image, baseline)  # type: ignore[return-value]
        return ScoreItem(key, self.prompts[index], (), meta, image, baseline)


class PromptsNeededError(Exception):
    """An evaluator asked for a prompt, and none was given."""


@dataclass(frozen=True)
class _Untold:
    """An image without a prompt: a ScoreItem that does not answer for one, since no text is not the empty text."""

    key: ImageKey
    category: tuple[str, ...]
    meta: Mapping[str, Any]
    image: Any
    baseline: Any

    @property
    def prompt(self) -> str:
        raise PromptsNeededError


def _rows(tree: _Tree, given: _Given, device: str, batch_size: int) -> list[ScoreRow]:
    """Return one decided row an image, in order."""
    made, count = tree.evaluator, len(given.pictures)
    if tree.parts:
        by_part = {part.evaluator.name: _rows(part, given, device, batch_size) for part in tree.parts}
        assert isinstance(made, CompositeEvaluator)
        return [made.combine({name: rows[index] for name, rows in by_part.items()}) for index in range(count)]
    if made.needs_baseline and given.baselines is None:
        raise InvalidValueError(f"evaluator {made.name} compares each image with another.", "Pass baselines=.")
    ready = _ready(tree, device)
    rows: list[ScoreRow] = []
    for start in range(0, count, max(1, batch_size)):
        items = [given.item(index, ready) for index in range(start, min(count, start + max(1, batch_size)))]
        rows += score_opened(ready, items)
    if any(row.error and row.error.startswith(PromptsNeededError.__name__) for row in rows):
        raise InvalidValueError(f"evaluator {made.name} compares images with their prompts.", "Pass prompts=.")
    return [row if row.error is not None else ready.decide(row) for row in rows]


def _ready(tree: _Tree, device: str) -> Evaluator:
    """Return an evaluator that is set up on a device: of a config that was used before, the one of then."""
    if tree.key is None:
        tree.evaluator.setup(device)
        return tree.evaluator
    place = (tree.key, device)
    if place not in _kept:
        tree.evaluator.setup(device)
        _kept[place] = tree.evaluator
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(place)
    return _kept[place]
