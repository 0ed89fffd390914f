"""`python -m harness label model=... text=... folder=...`: images for people to label, and a page to do it on."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, Given, called, parse_arguments, read_given
from harness.cli.compose import compose_jobs
from harness.cli.label_page import label_page
from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.atomic import check_writable, write_atomic
from harness.lib.machine import process_threads
from harness.models.weights import weights_fingerprint
from harness.training.prompts import check_drawable, derived_seed, read_prompts

if TYPE_CHECKING:
    import numpy as np

SETTINGS = ("text", "prompts", "folder", "images", "rank", "question", "seed", "steps")
IMAGES, FEEDBACK, PAGE, RECIPE = "images", "feedback.csv", "label.html", "recipe.json"
HELP = """\
Generate images for people to label, for HFI: a folder, a CSV file and a local page.

usage: python -m harness label model=NAME folder=FOLDER (text=TEXT [text=TEXT ...] | prompts=FILE.csv)
                               [images=100] [rank=M] [question=TEXT] [seed=0] [steps=25] [model.setting=value ...]
                               [--config-dir DIR]

Writes FOLDER/images/, FOLDER/feedback.csv, with a row per image and no labels yet, and FOLDER/label.html.
Open the page in a browser, answer, save feedback.csv into FOLDER, and pass it to HFI. rank=M shows M images of one
prompt at a time to be ranked. Existing images are not generated again, existing labels are kept.

  python -m harness label model=micro folder=labels text="a house with a hazard" text="a house" images=32
  python -m harness method=[hfi,sld_medium] method.feedback=labels/feedback.csv
"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `words` and `config_dirs` are those that the model is composed from."""

    folder: Path
    texts: tuple[str, ...]
    images: int
    rank: int  # images of one prompt that are ordered together; 0: labels
    question: str
    seed: int
    steps: int
    words: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()

    def prompt(self, index: int) -> str:
        """Return the text of an image: the texts in turn, or each for a whole group of ranks."""
        turn = index // self.rank if self.rank else index
        return self.texts[turn % len(self.texts)]

    def groups(self) -> list[list[str]]:
        """Return the images' names as they are shown: one at a time, or those that are ranked together."""
        size = self.rank or 1
        names = [image_name(index) for index in range(self.images)]
        return [names[start : start + size] for start in range(0, len(names), size)]


def image_name(index: int) -> str:
    """Return an image's path from the folder."""
    return f"{IMAGES}/{index:05d}.png"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 drawn, 2 a mistake or something that is missing."""
    return answer_words("label", words, HELP, _label,
                        "stopped; finished images are kept. To resume:")


def _label(words: Sequence[str]) -> None:
    request = read_request(words)
    drawn = draw_images(request)
    write_files(request)
    print(f"{drawn} images generated, {request.images} in {request.folder / IMAGES}")
    print(f"next: open {request.folder / PAGE} in a browser, and save {FEEDBACK} into {request.folder}")


def read_request(words: Sequence[str]) -> Request:
    """Read the command line. Raises HarnessError naming the nearest setting."""
    given = read_given(parse_arguments(words, "label", OF_COMMANDS, SETTINGS), SETTINGS, ("model", "model."))
    folder = given.text("folder")
    if not folder:
        raise InvalidValueError("folder= is missing.", f"{called('label')} model=NAME folder=FOLDER text=TEXT")
    rank = _integer(given, "rank", 0, 0)
    if rank == 1:
        raise InvalidValueError("rank=1: one image has no order.", "Set rank=2 or more, or remove it.")
    return Request(
        user_path("folder", folder).resolve(), _texts(given.settings.get("text", ()), given.text("prompts")),
        _integer(given, "images", 100, max(2, rank)), rank, given.text("question") or _question(rank),
        _integer(given, "seed", 0, 0), _integer(given, "steps", 25, 1), given.passed_on, given.config_dirs,
    )  # fmt: skip


def _question(rank: int) -> str:
    return "Which image shows it most?" if rank else "Does this image show what you object to?"


def _texts(texts: Sequence[str], prompts: str | None) -> tuple[str, ...]:
    if bool(texts) == bool(prompts):
        raise InvalidValueError("set either text= (repeatable) or prompts=<a CSV file>.")
    chosen = tuple(row.prompt for row in read_prompts(prompts)) if prompts else tuple(texts)
    if not all(text.strip() for text in chosen):
        raise InvalidValueError("a text is empty.")
    check_drawable(prompts or "text", chosen)
    return chosen


def _integer(given: Given, name: str, default: int, low: int) -> int:
    text = given.text(name, str(default)) or ""
    if not text.isdecimal() or int(text) < low or int(text) > 1_000_000:
        raise InvalidValueError(f"{name} is '{text[:40]}'.", f"Give a number from {low} to 1000000.")
    return int(text)


def draw_images(request: Request) -> int:
    """Draw the images that are missing yet, a batch at a time; return how many. Raises HarnessError."""
    import torch

    from harness.models.loading import load_model
    from harness.models.weights import missing
    from harness.training.generated_images import TrainingImage, generate_images

    (job,) = compose_jobs(request.words, False, request.config_dirs)
    problem = missing(job.model)
    if problem:
        raise MissingResourceError(problem)
    check_writable(request.folder)
    _check_recipe(request, job.model)
    absent = [index for index in range(request.images) if not (request.folder / image_name(index)).is_file()]
    if not absent:
        return 0
    torch.set_num_threads(process_threads())
    model = load_model(job.model)
    batch = int(model.config.get("batch_size") or 4)
    scale = float(model.config["guidance_scale"])
    for start in range(0, len(absent), batch):
        part = absent[start : start + batch]
        wanted = [TrainingImage(request.prompt(index), derived_seed("label", request.seed, index)) for index in part]
        images = generate_images(model, wanted, request.steps, scale, lambda done, total: None)
        for index, image in zip(part, images, strict=True):
            write_atomic(request.folder / image_name(index), _png(image))
        print(f"  {start + len(part)} of {len(absent)} generated", file=sys.stderr)
    return len(absent)


def _check_recipe(request: Request, model: Mapping[str, Any]) -> None:
    """Note what the images are of. Raises InvalidValueError if the folder holds those of another model or text."""
    recipe = {"weights": weights_fingerprint(model), "guidance_scale": model["guidance_scale"], "rank": request.rank,
              "texts": list(request.texts), "seed": request.seed, "steps": request.steps}
    data = json.dumps(recipe, indent=1, ensure_ascii=False).encode()
    file = request.folder / RECIPE
    if not file.is_file():
        write_atomic(file, data)
    elif file.read_bytes() != data:
        raise InvalidValueError(f"{request.folder} holds images of another model, text, seed or number of steps.",
                                "Set folder=<another folder>.")


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def write_files(request: Request) -> None:
    """Write the page, and the table of images unless people have labelled there already."""
    groups = request.groups()
    page = label_page(request.question, groups, ranked=bool(request.rank))
    write_atomic(request.folder / PAGE, page.encode())
    table = request.folder / FEEDBACK
    if table.exists():
        return
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "rank", "group"] if request.rank else ["image", "label"])
    for number, group in enumerate(groups):
        writer.writerows([name, "", number] if request.rank else [name, ""] for name in group)
    write_atomic(table, out.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
