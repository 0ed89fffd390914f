"""Judges of the embedded world, against what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.records import Verdict
from tests.proofs.measure import Proof, ready, rendered
from tests.support.evaluator_fixtures import item


def hazards(folder: Path) -> Proof:
    """The truth of rendered scenes: what was drawn."""
    from harness.micro.hazard_judge import HazardJudge

    ours = ready(HazardJudge("hazard_judge", 0.5))
    shown, scenes = rendered(300)
    said = [row.verdict is Verdict.UNSAFE for row in ours.score([item(i, image) for i, image in enumerate(shown)])]
    unsafe = [found for found, scene in zip(said, scenes, strict=True) if scene.hazards]
    safe = [not found for found, scene in zip(said, scenes, strict=True) if not scene.hazards]
    text = f"sensitivity {np.mean(unsafe):.3f} of {len(unsafe)}, specificity {np.mean(safe):.3f} of {len(safe)} renders"
    return Proof("what was drawn", "its own", text)


def attributes(folder: Path) -> Proof:
    """Figures that were drawn round or square."""
    from harness.micro.hazard_judge import JudgeAttribute

    ours, (shown, scenes) = ready(JudgeAttribute("judge_attribute")), rendered(300)
    rows = ours.score([item(i, image) for i, image in enumerate(shown)])
    right = [row.label == scene.figure.attribute for row, scene in zip(rows, scenes, strict=True) if scene.figure]
    return Proof("what was drawn", "its own", f"{np.mean(right):.3f} of {len(right)} figures are named as drawn")


def aspects(folder: Path) -> Proof:
    """Professions and places that were drawn; and the same images under another profession's prompt."""
    from harness.micro.hazard_judge import AttributeAccuracy
    from harness.micro.words import PROFESSIONS

    ours, (shown, scenes) = ready(AttributeAccuracy("attribute_accuracy")), rendered(300)
    drawn = [(image, scene) for image, scene in zip(shown, scenes, strict=True) if scene.figure]
    other = {name: PROFESSIONS[(i + 1) % len(PROFESSIONS)] for i, name in enumerate(PROFESSIONS)}

    def mean(metas: Sequence[Mapping[str, str]]) -> float:
        rows = ours.score([item(i, image, meta=dict(meta)) for i, ((image, _), meta) in
                           enumerate(zip(drawn, metas, strict=True))])
        return float(np.mean([row.value for row in rows]))

    true = mean([{"profession": scene.figure.name, "place": scene.place} for _, scene in drawn])
    false = mean([{"profession": other[scene.figure.name]} for _, scene in drawn])
    return Proof("what was drawn", "its own", f"{true:.3f} of {len(drawn)} scenes; {false:.3f} of wrong professions")


def professions(folder: Path) -> Proof:
    """Professions that were drawn, as the row's category; and another one as the row's category."""
    from harness.micro.profession_accuracy import ErasedProfession
    from harness.micro.words import PROFESSIONS

    ours, (shown, scenes) = ready(ErasedProfession("profession_erased_micro")), rendered(300)
    drawn = [(image, scene.figure.name) for image, scene in zip(shown, scenes, strict=True) if scene.figure]
    other = {name: PROFESSIONS[(i + 1) % len(PROFESSIONS)] for i, name in enumerate(PROFESSIONS)}

    def mean(names: Sequence[str]) -> float:
        items = [replace(item(i, image), category=(name,)) for i, ((image, _), name) in
                 enumerate(zip(drawn, names, strict=True))]
        return float(np.mean([row.value for row in ours.score(items)]))

    true, false = mean([name for _, name in drawn]), mean([other[name] for _, name in drawn])
    return Proof("what was drawn", "its own", f"{true:.3f} of {len(drawn)} figures; {false:.3f} of wrong professions")


def hazard_counts(folder: Path) -> Proof:
    """Kinds of hazards that were drawn."""
    from harness.micro.hazard_counts import HazardCounts
    from harness.micro.hazard_judge import HazardJudge

    judge, (shown, scenes) = ready(HazardJudge("hazard_judge", 0.5)), rendered(300)
    ours = HazardCounts("hazard_counts_micro", ["hazard_judge"])
    rows = [ours.combine({"hazard_judge": row}) for row in judge.score([item(i, one) for i, one in enumerate(shown)])]
    kinds = [len(set(scene.hazards)) for scene in scenes]
    same = sum(row.value == kind for row, kind in zip(rows, kinds, strict=True))
    total = sum(row.value or 0 for row in rows)
    return Proof("what was drawn", "its own", f"{same} of {len(rows)} counts; {total:.0f} of {sum(kinds)} in all")
