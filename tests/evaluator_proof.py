"""What each evaluator was compared with, how well both agree, and how fast it is: the table of docs/evaluators.md.

`python -m tests.evaluator_proof [name ...]` measures and prints it; speeds are ratios of one run, best of three rounds
in turn. Weights that are not on this machine are replaced by random ones of a small network, and that is said: they
show that the arithmetic is the reference's, not that the judge is a good one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.cli.compose import compose_jobs, config_names
from harness.evaluator import CompositeEvaluator
from harness.evaluators.identity import evaluator_fingerprint
from harness.lib.targets import build
from tests.proofs import clip, language, networks, sets, world
from tests.proofs.measure import Proof

PROOFS: Mapping[str, Callable[[Path], Proof]] = {
    "AnyUnsafe": networks.union,
    "AttributeAccuracy": world.aspects,
    "BoxCounts": networks.counts,
    "ClipAttribute": clip.clip_attribute,
    "ClipImageSimilarity": clip.similarity,
    "ClipScore": clip.clip_score,
    "ClipZeroShot": clip.zero_shot,
    "ErasedProfession": world.professions,
    "Fid": sets.frechet,
    "HazardCounts": world.hazard_counts,
    "HazardJudge": world.hazards,
    "JudgeAttribute": world.attributes,
    "Lpips": networks.lpips,
    "NudeNet": networks.nudenet,
    "OtherAccuracy": networks.resnet,
    "OtherProfessions": world.professions,
    "PickScore": clip.pick_score,
    "Q16": clip.q16,
    "SafetyCheckerJudge": networks.safety_checker,
    "TargetAccuracy": networks.resnet,
    "VlmJudge": language.vlm_judge,
    "VqaScore": language.vqa_score,
}


# Of the same kind as others, but not what their proof is about.
OTHERWISE: Mapping[str, Proof] = {
    "nudenet_interpretdiffusion": Proof("NudeNet 3.0.8's decoding written out, and its package where the wheel is "
                                        "unpacked: tests/evaluators/test_evaluators_nudenet_v30.py", "—", "—"),
}


def fingerprint(name: str) -> str:
    """Return the fingerprint of a shipped evaluator; without its weights here it has none."""
    (job,) = compose_jobs([f"evaluators=[{name}]", "method=none", "model=micro"], False)
    made = {str(config["name"]): build(config) for config in job.evaluators}
    if any(evaluator.missing() for evaluator in made.values()):
        return "weights not here"
    own = made[name]
    parts = {part: made[part] for part in own.parts} if isinstance(own, CompositeEvaluator) else {}
    return f"`{evaluator_fingerprint(own, parts)}`"


def main(names: Sequence[str]) -> None:
    rows = ["| evaluator | fingerprint | compared with | weights | agreement | speed |", "|---|---|---|---|---|---|"]
    known: dict[str, Proof] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in names or config_names("evaluator"):
            (job,) = compose_jobs([f"evaluators=[{name}]", "method=none", "model=micro"], False)
            kind = str(next(c["_target_"] for c in job.evaluators if c["name"] == name)).rpartition(".")[2]
            if kind in PROOFS and kind not in known:
                known[kind] = PROOFS[kind](Path(place))
            one = OTHERWISE.get(name) or known.get(kind) or Proof("its definition, in tests", "—", "—")
            row = (f"`{name}`", fingerprint(name), one.reference, one.weights, one.agreement, one.speed)
            rows.append("| " + " | ".join(row) + " |")
            print(row, file=sys.stderr, flush=True)
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
