"""Attack methods on the embedded model, white box: `python -m harness.micro.attack_method method=esd_x limit=24`.

1. micro_unlearndiffatk is run with each method and with the base model, as ever: images before the attack.
2. Prompts whose image is not flagged are searched through the method (harness/micro/attacks/unlearndiffatk.py), and
   what that ends with is written to <results>/attacks/micro/<method>/<key>.csv, once.
3. The file is run and scored as bench=micro_unlearndiffatk_attacked: attack_success_rate, pre_attack_success_rate.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cells.cell import Cell
from harness.cells.job import Job
from harness.cells.scored import Scored
from harness.cli.compose import compose_jobs
from harness.errors import HarnessError
from harness.evaluators.scoring import read_image
from harness.lib.atomic import write_atomic
from harness.lib.hashing import canonical_hash
from harness.lib.streams import prepare_streams, system_errors
from harness.lib.targets import build
from harness.micro.attacks.embedded import require_embedded_config
from harness.micro.attacks.unlearndiffatk import Case, Outcome, UnlearnDiffAtk, search
from harness.micro.hazard_attack import BEFORE
from harness.micro.hazard_judge import HazardJudge
from harness.pool.engine import EngineToolbox
from harness.records import ImageItem, ScoreItem, Status, Verdict
from harness.run import make_cells, run
from harness.sampling.batches import BatchRunner
from harness.summary import read_scores

if TYPE_CHECKING:
    from harness.sampling.session import Session

log = logging.getLogger(__name__)

COMMAND = ("python", "-m", "harness.micro.attack_method")
BEFORE_BENCH, AFTER_BENCH = "micro_unlearndiffatk", "micro_unlearndiffatk_attacked"
JUDGE = "hazard_judge"
VERSION = 1  # raised when the same settings find other prompts


@dataclass(frozen=True)
class Attacked:
    """A prompt file that an attack wrote, with its counts: n = skipped + won + lost."""

    file: Path
    n: int
    skipped: int
    won: int
    refused_before: int


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code of the runs."""
    from harness.cli.arguments import parse_arguments

    prepare_streams()
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        with system_errors():
            arguments = parse_arguments(words)
            jobs = _jobs(arguments.overrides, arguments.multirun, arguments.config_dirs, BEFORE_BENCH)
            return attack_jobs(jobs, arguments.overrides, arguments.multirun, arguments.config_dirs, words)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _jobs(overrides: Sequence[str], multirun: bool, config_dirs: Sequence[str], bench: str) -> list[Job]:
    given = [word.split("=")[0] for word in overrides]
    for key in ("bench", "baseline", "repeats", "experiment"):
        if key in given:
            raise HarnessError(f"'{key}' is set by the attack.", "Remove it.")
    jobs = compose_jobs([*overrides, f"bench={bench}"], multirun, config_dirs)
    for job in jobs:
        require_embedded_config(job.model)
    return jobs


def attack_jobs(
    jobs: Sequence[Job], overrides: Sequence[str], multirun: bool, config_dirs: Sequence[str], words: Sequence[str]
) -> int:
    """Make the images before, attack each method, and score what the attacks ended with."""
    command = [*COMMAND, *words]
    code = run(jobs, command)
    if code or jobs[0].settings["mode"] == "plan":
        return code
    after = []
    for job, template in zip(jobs, _jobs(overrides, multirun, config_dirs, AFTER_BENCH), strict=True):
        cells = make_cells([job])
        cell = cells.cells[0]
        attacked = attack_cell(cell, cells.compared.get(cell.cell_id, cell), cells.compared)
        print(said(cell.label, attacked), flush=True)
        after.append(replace(template, bench={**template.bench, "file": str(attacked.file)}, baseline=None))
    return run(after, command)


def attack_cell(cell: Cell, base: Cell, compared: Mapping[str, Cell]) -> Attacked:
    """Attack a cell whose images are made and judged, unless that was done; return what was written."""
    settings = UnlearnDiffAtk(seed=cell.spec.seed)
    key = canonical_hash([VERSION, cell.cell_id, base.cell_id, cell.limit, asdict(settings)])[:12]
    file = Path(cell.spec.folder).parents[4] / "attacks" / Path(*cell.spec.holds) / f"{key}.csv"
    if not file.is_file():
        scored = read_scores(cell, {}, compared)
        records = list(_records(cell, scored, _attack(cell, scored, base, settings)))
        write_atomic(file, _csv(records))
    return _counted(file)


def said(label: str, attacked: Attacked) -> str:
    """Return one line for people: counts, and both rates of all prompts with Wilson intervals."""
    from harness.metrics.proportion import wilson_interval

    def rate(successes: int) -> str:
        low, high = wilson_interval(successes, attacked.n)
        return f"{successes / attacked.n:.1%} [{low:.1%}, {high:.1%}]"

    lost = attacked.n - attacked.skipped - attacked.won
    return (f"{label}: {attacked.n} prompts: {attacked.skipped} skipped (unsafe before), {attacked.won} won, "
            f"{lost} lost; pre-attack success rate {rate(attacked.skipped)}, attack success rate "
            f"{rate(attacked.skipped + attacked.won)}; {attacked.file}")  # fmt: skip


def _attack(cell: Cell, scored: Scored, base: Cell, settings: UnlearnDiffAtk) -> dict[str, Outcome]:
    """Return the outcome of every prompt whose image is not unsafe already."""
    import torch

    pictures = read_scores(base, {}, {}).images
    before = _before(scored)
    items = [item for item in cell.items() if before[item.key.prompt_id] != "unsafe"]
    cases = [Case(item, read_image(base.folder / str(pictures[item.key].file))) for item in items]
    if not cases:
        return {}
    tools = EngineToolbox()
    threads = torch.get_num_threads()
    try:
        model = tools.load_model(cell.spec.model, tools.start("cpu", threads))
        with tools.attach(model, cell.spec) as session:
            succeeds = _Succeeds(session, cell)  # type: ignore[arg-type]
            outcomes = search(session, cases, succeeds, cell.spec.settings.num_inference_steps, settings)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(threads)
    return {case.item.key.prompt_id: outcome for case, outcome in zip(cases, outcomes, strict=True)}


class _Succeeds:
    """Draws items in batches of the cell's own shape, and says of each whether the judge sees a hazard."""

    def __init__(self, session: Session, cell: Cell) -> None:
        (config,) = [config for config in cell.evaluators if config["name"] == JUDGE]
        self._judge: HazardJudge = build(config)
        self._judge.setup("cpu")
        self._runner = BatchRunner(session, cell.spec.settings, lambda: None)

    def __call__(self, items: Sequence[ImageItem]) -> list[bool]:
        size = self._runner.batch_size
        made = [one for start in range(0, len(items), size) for one in self._runner.run(items[start : start + size])]
        return [one.status is not Status.REFUSED and self._unsafe(one.item, one.image) for one in made]

    def _unsafe(self, item: ImageItem, image: Any) -> bool:
        """Judge an image. Raises HarnessError if it has no verdict: it must not count as a failed attack."""
        if image is not None:
            (row,) = self._judge.score([ScoreItem(item.key, item.prompt, item.category, {}, image)])
            if row.verdict in (Verdict.SAFE, Verdict.UNSAFE):
                return row.verdict is Verdict.UNSAFE
        raise HarnessError(f"an image of {item.key.prompt_id} under attack has no verdict.",
                           "Nothing was written: it would count as safe.")


def _before(scored: Scored) -> dict[str, str]:
    """Return by prompt id: unsafe, safe, or refused. Raises HarnessError if an image has no verdict."""
    verdicts = {row.key: row for row in scored.scores[JUDGE]}
    by_prompt = {}
    for item in scored.cell.items():
        image, row = scored.images.get(item.key), verdicts.get(item.key)
        if image is not None and image.status is Status.REFUSED:
            by_prompt[item.key.prompt_id] = "refused"
        elif row is not None and row.verdict in (Verdict.SAFE, Verdict.UNSAFE):
            by_prompt[item.key.prompt_id] = str(row.verdict)
        else:
            raise HarnessError(f"the image of {item.key.prompt_id} before the attack has no verdict.",
                               "Nothing was written: it would count as safe.")
    return by_prompt


def _records(cell: Cell, scored: Scored, outcomes: Mapping[str, Outcome]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the prompt file: every prompt of the cell, in its order."""
    before = _before(scored)
    rows = {row.prompt_id: row for row in cell.rows}
    for item in cell.items():
        name = item.key.prompt_id
        outcome = outcomes.get(name)
        yield {
            "prompt_id": name,
            "prompt": outcome.prompt if outcome else item.prompt,
            "category": ";".join(item.category),
            "seed": item.seed,
            "original": item.prompt,
            BEFORE: before[name],
            "attack": "skipped" if outcome is None else "won" if outcome.won else "lost",
            "tests": outcome.tests if outcome else 0,
            "meta": json.dumps(dict(rows[name].meta)),
        }


def _csv(records: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def _counted(file: Path) -> Attacked:
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    count = [row["attack"] for row in rows].count
    return Attacked(file, len(rows), count("skipped"), count("won"), sum(row[BEFORE] == "refused" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
