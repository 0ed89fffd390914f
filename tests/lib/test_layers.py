"""What import contracts (pyproject.toml, `make lint`) cannot say: nothing heavy at start, no pickle without limits."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "methods").rglob("*.py")])
HEAVY = {"torch", "diffusers", "transformers", "onnxruntime", "nudenet", "open_clip", "lpips", "cleanfid"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_on_load(path: Path) -> set[str]:
    """Return the packages that importing the module imports at once: not in functions, not for type checkers."""
    found, todo = set(), list(parsed(path).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif isinstance(node, ast.If | ast.Try | ast.With):
            todo += node.body
    return found


@pytest.mark.parametrize("path", [p for p in FILES if not name(p).startswith("harness/micro/")], ids=name)
def test_heavy_packages_are_imported_when_used_not_when_loaded(path):
    assert not imported_on_load(path) & HEAVY


def test_no_pickle_is_read_without_restriction():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, name(path)
        assert "weights_only=False" not in text, name(path)
        assert "pickle.load" not in text, name(path)


# One reader each for JSON, YAML, arrays, tensors and images from elsewhere: harness/lib/reading.py, arrays.py,
# image_files.py, tensor_headers.py, harness/models/part_tensors.py. Other calls read what this process wrote, or what
# ships with the package.
READERS = {
    "json.loads": {
        "harness/lib/reading.py": "the reader itself",
        "harness/lib/tensor_headers.py": "the reader of headers: refuses constants and repeated names",
        "harness/models/part_layouts.py": "what this module's own process answers",
        "harness/cli/calibrate.py": "a round trip of its own", "harness/cells/cell.py": "a round trip of its own",
        "harness/report/published.py": "text that the report has just made",
        "harness/report/elsewhere.py": "text that the report has just made",
        "harness/micro/prompts.py": "rows that it has just drawn", "harness/micro/sampling.py": "shipped prompts",
        "harness/micro/attacks/files.py": "rows that it has just drawn",
    },
    "json.load": {},
    "yaml.safe_load": {}, "yaml.load": {}, "yaml.full_load": {}, "yaml.unsafe_load": {},
    "OmegaConf.load": {},
    "np.load": {"harness/micro/training/pictures.py": "pictures that the training of the embedded world drew"},
    "np.fromfile": {}, "np.loadtxt": {}, "np.genfromtxt": {},
    "torch.load": {
        "harness/models/part_tensors.py": "the reader of checkpoints, weights only, after their names and headers",
        "harness/cli/convert.py": "weights only, after the same look",
        "harness/micro/training/common.py": "training of the embedded world",
        "harness/micro/training/unet.py": "training of the embedded world",
    },
    "safe_open": {},
    "load_file": {
        "harness/models/part_tensors.py": "the reader of checkpoints, after the header",
        "harness/models/lora.py": "after the header, and values are looked at",
        "harness/evaluators/q16_prompts.py": "after the header",
        "harness/micro/judge.py": "weights of the package",
        "harness/micro/measure_parts.py": "weights of the package",
        "harness/micro/training/unet.py": "training of the embedded world",
    },
    "Image.open": {"harness/lib/image_files.py": "the reader itself"},
    "hashlib.file_digest": {"harness/lib/hashing.py": "the hash itself"},
    "pickle.Unpickler": {"harness/evaluators/q16_prompts.py": "plain arrays alone"},
    "pickle._Unpickler": {"harness/lib/torch_headers.py": "stand-ins alone",
                          "harness/cli/convert.py": "tensors alone"},
    "pickle.loads": {}, "pickle.load": {}, "eval": {}, "exec": {},
    "zipfile.ZipFile": {"harness/lib/arrays.py": "the reader itself",
                        "harness/lib/torch_headers.py": "the reader itself",
                        "harness/lib/table_formats.py": "the reader of workbooks"},
}  # fmt: skip


@cache
def called(path: Path) -> set[str]:
    """Return what a module calls or derives from, by its written name."""
    names = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    names += [base for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef) for base in node.bases]
    return {ast.unparse(one) for one in names if isinstance(one, ast.Name | ast.Attribute)}


@pytest.mark.parametrize("reader", sorted(READERS))
def test_what_others_wrote_is_read_by_one_reader(reader):
    users = {name(path) for path in FILES if reader in called(path)}
    assert users == set(READERS[reader])
