"""Every shipped evaluator config: builds without torch, names itself, says what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.evaluator import Evaluator, SetEvaluator
from harness.lib.targets import build

FILES = sorted((Path(__file__).parents[2] / "conf" / "evaluator").glob("*.yaml"))
HEAVY = ("torch", "transformers", "onnxruntime", "cv2", "lpips", "cleanfid", "torchvision", "scipy")


def config(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_builds_and_describes_itself(file):
    made = build(config(file))
    assert isinstance(made, Evaluator)
    assert made.name == file.stem
    json.dumps(dict(made.identity()), allow_nan=False)
    assert made.missing() is None or "\n" not in made.missing()
    assert made.kind == "verdict" or isinstance(made, SetEvaluator) or made.metric
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 40


def test_building_all_evaluators_imports_nothing_heavy():
    code = (
        "import sys, yaml, pathlib\n"
        "from harness.lib.targets import build\n"
        "import harness.evaluators.scoring, harness.metrics\n"
        f"for file in {[str(file) for file in FILES]}:\n"
        "    made = build(yaml.safe_load(pathlib.Path(file).read_text()))\n"
        "    made.missing(), made.identity()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_embedded_world_knows_the_embedded_world():
    root = Path(__file__).parents[2] / "harness"
    for folder in ("metrics", "evaluators"):
        for file in (root / folder).glob("*.py"):
            assert "import harness.micro" not in file.read_text()
            assert "from harness.micro" not in file.read_text()
