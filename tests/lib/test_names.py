"""The engine names no method, family of models, detector or data set, in code, messages and hints: configs bring names.

Docstrings and comments may: they cite papers. So may help texts (a constant HELP), whose examples are commands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from harness.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]

# Files that are about one of these: a detector, a family, the embedded world, what things were called.
OWN = ("harness/evaluators/", "harness/models/families/", "harness/micro/", "harness/lib/old_names.py")
SHARED = tuple(f"harness/evaluators/{name}.py" for name in ("__init__", "identity", "model_source", "scoring"))
FILES = sorted(file for file in (ROOT / "harness").rglob("*.py")
               if (name := str(file.relative_to(ROOT))) in SHARED or not name.startswith(OWN))

# Configs that are called by a word which is not theirs alone.
WORDS = {
    "none": "the bare model, in the contract of the command line",
    "negative_prompt": "a setting of prompts and pipelines",
    "safety_checker": "a part of pipelines, which is not loaded",
    "degenerate": "a word of mathematics",
    "inappropriate": "a label that people's folders have",
    "preference": "a word", "folder": "a word", "csv": "a format", "local": "a word", "if": "a word",
    "clip_score": "a metric", "clip_image_similarity": "a metric", "attribute_accuracy": "a metric",
    "feature_distance": "a metric", "fid": "a metric", "lpips": "a metric", "pick_score": "a metric",
    "vqa_score": "a metric",
}  # fmt: skip


def parts(word: str) -> list[str]:
    """Return the parts of a word in snake or camel case, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", word)]


def spelled(word: str) -> str:
    return "".join(parts(word))


@cache
def names() -> dict[str, str]:
    """Return what must not be named, by its letters: configs, the modules that they build, families and cards."""
    found = set(FAMILIES) | {card.stem for card in (ROOT / "datasets").glob("*.yaml")}
    for config in (ROOT / "conf").glob("*/*.yaml"):
        if config.parent.name in ("method", "evaluator", "bench", "model"):
            found.add(config.stem)
            found.update(re.findall(r"^_target_: (?:.*\.)?(\w+)\.\w+$", config.read_text(encoding="utf-8"), re.M))
    return {spelled(name): name for name in found - set(WORDS)}


def words(tree: ast.Module) -> Iterator[str]:
    """Yield the words of code and texts, less docstrings and help texts."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}
    left |= {id(part) for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP"
             for part in ast.walk(node)}
    for node in ast.walk(tree):
        texts = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "asname", "module")]
        texts += [node.value] if isinstance(node, ast.Constant) and id(node) not in left else []
        for text in texts:
            if isinstance(text, str):
                yield from re.findall(r"\w+", text)


def named(code: str) -> set[str]:
    """Return the names that code mentions, alone or as a part of a longer word."""
    found = set()
    for word in set(words(ast.parse(code))):
        own = parts(word)
        pieces = ("".join(own[start:end]) for start in range(len(own)) for end in range(start + 1, len(own) + 1))
        found.update(names()[piece] for piece in pieces if piece in names())
    return found


def test_the_engine_names_no_method_family_detector_or_data_set():
    found = {str(path.relative_to(ROOT)): named(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: own for name, own in found.items() if own} == {}


@pytest.mark.parametrize(("code", "name"), [
    ("class SafeDirTraining: ...", "safedir"), ("hint = 'Say method=[x,sdd].'", "sdd"), ("SD2_WIDTH = 1024", "sd2"),
    ("raise ValueError(f'{x} (rece: and lam_r)')", "rece"), ("words = ['model=micro']", "micro"),
    ("from harness.evaluators import nudenet", "nudenet"), ("def f(*, i2p_row=1): ...", "i2p_row"),
])  # fmt: skip
def test_a_name_is_found_in_code_and_in_texts(code, name):
    assert name in named(code)


def test_docstrings_and_help_texts_may_name_what_they_are_about():
    assert named('"""SafeDir (WWW 2025)."""\nHELP = "python -m harness method=safedir"\n# as UCE does\n') == set()
