"""Which images of two cells are partners, and what their pairs share."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.cells.comparable import GIVEN, mapping
from harness.comparisons.sides import Side, settings
from harness.errors import IncompatibleError
from harness.records import ImageKey, ImageRow, ScoreRow
from harness.report.comparable import making
from harness.report.run import Run

SHARED, OTHER, UNKNOWN = "shared", "not shared", "unknown"


@dataclass(frozen=True)
class Matched:
    """The images of both cells, of the same prompt and repeat. `noise`: shared, not shared, unknown; `why` not.

    `rows` keeps the score rows of pairs that were looked up, by evaluator.
    """

    keys: tuple[ImageKey, ...]
    n_prompts: int
    n_a: int
    n_b: int
    noise: str
    why: str
    differs: str
    rows: dict[str, list[tuple[ImageRow, ScoreRow, ScoreRow]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def words(self) -> str:
        """Say what is paired."""
        rest = f" of {self.n_a:,} and {self.n_b:,} images" if not self.n_a == self.n_b == len(self.keys) else ""
        noise = "the same noise" if self.noise == SHARED else f"noise {self.noise} ({self.why})"
        return f"{len(self.keys):,} pairs{rest} by prompt and repeat, {self.n_prompts:,} prompts, {noise}"


def match(a: Side, b: Side) -> Matched:
    """Pair the images of two cells. Raises IncompatibleError where they have no prompt in common."""
    if a.run.bench != b.run.bench:
        raise IncompatibleError(f"{a.label} is on {a.run.bench}, {b.label} on {b.run.bench}.",
                                "Cells that are compared need the same bench.")
    keys = tuple(sorted((key for key in a.images.keys() & b.images.keys()
                         if a.images[key].prompt == b.images[key].prompt), key=lambda key: (key.prompt_id, key.repeat)))
    if not keys:
        raise IncompatibleError(f"{a.label} and {b.label} have no image of the same prompt and repeat.",
                                "Compare runs of the same prompts.")
    apart = sum(a.images[key].seed != b.images[key].seed for key in keys)
    noise, why = noise_between(a.run, b.run, apart)
    prompts = len({a.images[key].prompt for key in keys})
    return Matched(keys, prompts, len(a.images), len(b.images), noise, why, _differs(a, b))


def noise_between(a: Run, b: Run, apart: int = 0) -> tuple[str, str]:
    """Return whether images of two cells start from the same noise, and why not; `apart` of them differ in seed."""
    if GIVEN in (making(a).get("engine recipe"), making(b).get("engine recipe")):
        return UNKNOWN, "images made elsewhere"
    if a.model != b.model:
        return OTHER, f"models {a.model} and {b.model}"
    if apart:
        seeds = [settings(run).get("seed") for run in (a, b)]
        named = f"seeds {seeds[0]} and {seeds[1]}" if seeds[0] != seeds[1] else f"{apart:,} pairs have other seeds"
        return OTHER, named
    sizes = [making(run).get("size") for run in (a, b)]
    return (SHARED, "") if sizes[0] == sizes[1] else (OTHER, f"sizes {sizes[0]} and {sizes[1]}")


def _differs(a: Side, b: Side) -> str:
    """Say how the images were made differently, besides method, model and seed; empty if alike."""
    if a.run.cell_id == b.run.cell_id:
        return ""
    first, second = making(a.run), making(b.run)
    told = ("seed", "part", "statistics", *(("weights", "revision") if a.run.model != b.run.model else ()))
    keys = [key for key in dict.fromkeys([*first, *second]) if key not in told and first.get(key) != second.get(key)]
    return ", ".join(f"{key} {_short(first.get(key))} and {_short(second.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = "the model's own" if value is None else str(value)
    text = text.removeprefix("sha256:")
    return text if len(text) <= 20 else f"{text[:10]}\N{HORIZONTAL ELLIPSIS}"


def judged_apart(a: Side, b: Side, evaluator: str) -> str:
    """Say how an evaluator differs between two cells; empty if it is the same."""
    if a.fingerprint(evaluator) == b.fingerprint(evaluator):
        return ""
    known = [mapping(mapping(mapping(side.run.summary.get("evaluators")).get(evaluator)).get("identity"))
             for side in (a, b)]
    keys = [key for key in dict.fromkeys([*known[0], *known[1]]) if known[0].get(key) != known[1].get(key)]
    named = ", ".join(f"{key} {_short(known[0].get(key))} and {_short(known[1].get(key))}" for key in keys[:3])
    return f"{evaluator} is not the same in both: {named or 'other versions'}"
