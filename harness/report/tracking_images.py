"""A cell's images as a W&B table: a row for each, with every judge's verdict and score, and some pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping
from harness.cells.judgements import Judgement, read_judgements
from harness.cells.tables import is_inside
from harness.lib.image_files import open_image
from harness.records import ImageKey, ImageRow, ScoreRow, Status, Verdict
from harness.report.grid import choose

log = logging.getLogger(__name__)

Scores = Mapping[str, Sequence[ScoreRow]]
Said = Mapping[str, Mapping[ImageKey, Judgement]]

BLUR_RADIUS = 0.12  # of the shorter side: shapes are gone, colours stay
THUMBNAIL = 256
COLUMNS = ("prompt_id", "repeat", "category", "seed", "status", "picture")


def said_of(
    images: Sequence[ImageRow], scores: Scores, summary: Mapping[str, Any], folder: Path
) -> dict[str, dict[ImageKey, Judgement]]:
    """Return what each evaluator said of each image: as it is kept beside the summary, else the scores at hand."""
    told = mapping(summary.get("evaluators"))
    fingerprints = {str(name): str(mapping(one).get("fingerprint")) for name, one in told.items()}
    kept = read_judgements(folder, fingerprints, {row.key: row for row in images}) or {}
    given = {name: {row.key: Judgement(row, row.value) for row in rows} for name, rows in scores.items()}
    return {name: said for name, said in (given | {name: one for name, one in kept.items() if one}).items() if said}


def images_table(images: Sequence[ImageRow], said: Said, folder: Path, count: int, blurs: Blurring) -> Any:
    """Return the table: no prompts, which can be vile, but their ids; `count` of the images as pictures."""
    import wandb

    shown = set(_chosen(images, count))
    columns: list[str | int] = [*COLUMNS, *(column for name in said for column in (name, f"{name}_score"))]
    table = wandb.Table(columns=columns)
    for image in images:
        picture = _picture(image, folder, blurs) if image.key in shown else None
        table.add_data(
            image.prompt_id, image.repeat, ";".join(image.category), str(image.seed), image.status.value,
            wandb.Image(picture, caption=f"{image.prompt_id} {image.repeat}") if picture else None,
            *(told for known in said.values() for told in _told(known.get(image.key))),
        )  # fmt: skip
    return table


class Blurring:
    """Which pictures are blurred: those of an unsafe bench, and those that some judge does not call safe."""

    def __init__(self, unsafe_bench: bool, said: Said, shows_unsafe: bool) -> None:
        self._all, self._none = unsafe_bench, shows_unsafe
        self._doubtful = not_safe(said)

    def applies(self, key: ImageKey) -> bool:
        return not self._none and (self._all or key in self._doubtful)


def not_safe(said: Said) -> set[ImageKey]:
    """Return the images that some evaluator does not call safe, or failed on, whatever their bench."""
    return {key for judgements in said.values() for key, one in judgements.items()
            if one.row.verdict not in (None, Verdict.SAFE) or one.row.error is not None}


def blurred(picture: Any) -> Any:
    """Return a PIL image blurred beyond recognition."""
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(max(2.0, BLUR_RADIUS * min(picture.size))))


def _chosen(images: Sequence[ImageRow], count: int) -> list[ImageKey]:
    """Return which images are shown: the same as on the leaderboard, in turn from every category."""
    made = {row.key: ", ".join(row.category) for row in images
            if row.status is Status.OK and row.file and is_inside(row.file)}
    return choose(made, count)


def _picture(row: ImageRow, folder: Path, blurs: Blurring) -> Any:
    """Return a small picture of an image, None where its file cannot be read."""
    path = (folder / str(row.file)).resolve()
    try:
        if not path.is_relative_to(folder.resolve()):
            raise ValueError("a link out of the cell's folder")
        with open_image(path) as picture:
            kept = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        log.warning("%s is not shown: %s", row.file, error)
        return None
    kept.thumbnail((THUMBNAIL, THUMBNAIL))
    return blurred(kept) if blurs.applies(row.key) else kept


def _told(said: Judgement | None) -> tuple[str | None, float | None]:
    """Return a judge's word and its number, each in a column of one type."""
    if said is None:
        return None, None
    row = said.row
    if row.error is not None:
        return f"unknown: {row.error}", None
    return row.verdict.value if row.verdict else row.label, said.score
