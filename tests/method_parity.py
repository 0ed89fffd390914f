"""How close methods come to their references: `python -m tests.method_parity` writes docs/parity.md's table.

Tests hand the difference that they measured to `agree`, which also checks it. The command runs these tests and keeps
the largest difference of each row; a table line without a measurement is an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

VARIABLE = "METHOD_PARITY"  # the file that measured differences are added to
PAGE = Path(__file__).parent.parent / "docs" / "parity.md"
BEGIN, END = "<!-- parity -->", "<!-- /parity -->"


@dataclass(frozen=True)
class Row:
    """A line of the table: what a method was compared with, in what, in which unit."""

    method: str
    reference: str
    compared: str
    unit: str
    tests: str  # a file of tests/methods/, and what `pytest -k` chooses of it


GREY, SHARE = "grey levels of 255", "of the largest value"
ROWS: dict[str, Row] = {
    "negative_prompt": Row("`negative_prompt`", "diffusers' StableDiffusionPipeline", "images", GREY,
                           "test_methods_negative_prompt.py::diffusers_negative_prompt"),
    "sld": Row("`sld_*`", "diffusers' StableDiffusionPipelineSafe", "images of every preset, DDIM and PNDM", GREY,
               "test_methods_sld.py::diffusers_own"),
    "sega": Row("`sega*`", "diffusers' SemanticStableDiffusionPipeline", "images of every preset, DDIM and PNDM",
                GREY, "test_methods_sega.py::diffusers_own"),
    "sega_latents": Row("`sega`, three concepts", "the same", "final latents", SHARE,
                        "test_methods_sega.py::latents_are_diffusers"),
    "safree": Row("`safree_only`", "diffusers' pipeline on embeddings edited outside of it", "images", GREY,
                  "test_methods_safree.py::stock_pipeline"),
    "safree_filter": Row("`safree`, re-attention", "the release's filter, written out in NumPy", "filtered features",
                         "absolute, values of about 1", "test_methods_safree_reattention.py::released_filters_put"),
    "trasce": Row("`trasce`", "the authors' loop, written out", "final latents", SHARE,
                  "test_methods_trasce.py::authors_loop"),
    "trasce_gradient": Row("`trasce`", "central differences", "length of the gradient", "of it",
                           "test_methods_trasce.py::finite_differences"),
    "safedir": Row("`safedir`", "diffusers' pipeline on shifted embeddings, opened by its callback", "images", GREY,
                   "test_methods_safedir.py::window_opens or stock_pipeline"),
    "safedir_file": Row("`safedir`, `method.checkpoint`", "the product of the published b and a, added by hand",
                        "images", GREY, "test_methods_published_directions.py::released_direction_moves"),
    "interpret": Row("`interpret_*`", "the vector itself, at the mid block", "what a conditional row gains",
                     "absolute, values of about 1", "test_methods_interpret.py::only_conditional_rows"),
    "esd": Row("`esd_*`", "the paper's target, eta = ng - 1", "targets", "absolute, values of about 1",
               "test_methods_esd.py::release_s_target"),
    "concept_ablation": Row("`concept_ablation`", "the release's step, written out on a U-Net with its processor",
                            "loss", "of it", "test_methods_concept_ablation.py::loss_and_gradient"),
    "concept_ablation_gradient": Row("`concept_ablation`", "the same", "gradient of every trained tensor", SHARE,
                                     "test_methods_concept_ablation.py::loss_and_gradient"),
    "uce": Row("`uce`", "the released script's sums and inverse, written out", "change of every K and V", SHARE,
               "test_methods_uce.py::released_script"),
    "rece": Row("`rece`", "the released epochs, written out", "change of every K and V", SHARE,
                "test_methods_rece.py::those_of_the_release"),
    "hfi": Row("`hfi`", "the word whose vector was learned", "embedding of a prompt", "absolute, values of about 1",
               "test_methods_hfi.py::known_vector"),
    "spm": Row("`spm`", "the release's merge into the weights", "noise predicted", SHARE,
               "test_methods_spm.py::released_merge"),
    "advunlearn": Row("`advunlearn`", "the published tensors", "weights in place", "absolute",
                      "test_methods_advunlearn.py::released_folder"),
    "unet_checkpoint": Row("`mace`, `salun`", "the published tensors", "weights in place", "absolute",
                           "test_methods_unet_checkpoint.py::mace_is or salun_is"),
    "concept_steerers": Row("`concept_steerers`", "diffusers' pipeline on the released embeddings, written out",
                            "images", GREY, "test_methods_concept_steerers.py::stock_pipeline"),
    "saeuron": Row("`saeuron`", "the released hook, written out", "features at the hook point",
                   "absolute, values of about 10", "test_methods_saeuron.py::released_hook"),
}  # fmt: skip


def agree(name: str, difference: float, at_most: float) -> None:
    """Assert that a measured difference is small, and note it where the table is being made."""
    difference = float(getattr(difference, "detach", lambda: difference)())
    if os.environ.get(VARIABLE):
        with open(os.environ[VARIABLE], "a") as file:
            file.write(json.dumps([name, difference]) + "\n")
    assert difference <= at_most, f"{ROWS[name].method} differs by {difference:g} from {ROWS[name].reference}"


def measured() -> dict[str, float]:
    """Run the tests of all rows; return the largest difference of each. Raises RuntimeError where one fails."""
    with TemporaryDirectory() as folder:
        record = Path(folder) / "differences.jsonl"
        for chosen in dict.fromkeys(row.tests for row in ROWS.values()):
            file, _, words = chosen.partition("::")
            command = [sys.executable, "-m", "pytest", "-q", f"tests/methods/{file}", "-k", words]
            done = subprocess.run(command, env=os.environ | {VARIABLE: str(record)}, cwd=PAGE.parent.parent)
            if done.returncode:
                raise RuntimeError(f"tests/methods/{file} -k '{words}' failed")
        return largest(record)


def largest(record: Path) -> dict[str, float]:
    """Return the largest difference of each row that tests noted in a file. Raises RuntimeError for one without any."""
    found: dict[str, float] = {}
    for name, difference in map(json.loads, record.read_text().splitlines()):
        found[name] = max(found.get(name, 0.0), difference)
    absent = [name for name in ROWS if name not in found]
    if absent:
        raise RuntimeError(f"nothing was measured for {', '.join(absent)}")
    return found


def table(found: dict[str, float]) -> str:
    """Return the table in Markdown."""
    lines = ["| method | reference | compared | largest difference |", "|---|---|---|---|"]
    lines += [f"| {row.method} | {row.reference} | {row.compared} | {_number(found[name])} {row.unit} |"
              for name, row in ROWS.items()]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1e}"


def main() -> int:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(measured())}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
