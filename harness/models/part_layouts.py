"""What a part's class expects of its weights, compared with its files: names and shapes, before anything loads.

A part is built without memory (torch's meta device) from its config, and its own library says which tensors it would
miss: the names that older versions wrote, tied weights and counters are then judged as loading judges them.
`python -m harness.models.part_layouts` does it in a process of its own, so that a plan imports no torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.lib.reading import parse_json

Shapes = Mapping[str, tuple[int, ...]]

KNOWN = Path("responsible-t2i-harness", "layouts")  # below the user's cache: layouts that were found to fit
RULES = 2  # of what is compared: raised where more is, so that what fitted before is looked at again
SECONDS = 300  # that the other process may take


@dataclass(frozen=True)
class Part:
    """A part as its folder tells it: library and class, the text of its config, and the tensors of its files.

    A scheduler and a tokenizer have no text of a config and no tensors here. `modules` are where its class may be
    beside its library.
    """

    library: str
    kind: str
    config: str
    shapes: Shapes
    sharded: bool = False
    modules: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        shapes = sorted((name, list(shape)) for name, shape in self.shapes.items())
        told = [self.library, self.kind, self.config, shapes, self.sharded, list(self.modules), RULES, _versions()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class Misfit:
    """What a part's files lack of the `wanted` names of its class, and which tensors have another shape there.

    `wrong` holds (name, shape in the file, shape that the class wants); `error` why the class cannot be built. Where
    nobody could be `asked`, nothing was found, and loading compares again. A class is not `known` where no library has
    it.
    """

    lacking: tuple[str, ...] = ()
    wrong: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    wanted: int = 0
    error: str | None = None
    asked: bool = True
    known: bool = True

    @property
    def fits(self) -> bool:
        return self.known and not (self.lacking or self.wrong or self.error)


@lru_cache(maxsize=1)
def _versions() -> list[str]:
    return [importlib.metadata.version(name) for name in ("torch", "diffusers", "transformers")]


def misfits(parts: Sequence[Part]) -> list[Misfit]:
    """Return how each part misfits. Without torch in this process another one is asked; what fits is remembered."""
    digests = [part.digest for part in parts]
    open_ones = {digest: part for digest, part in zip(digests, parts, strict=True) if not _is_known(digest)}
    ask = _here if "torch" in sys.modules else _elsewhere
    by_digest = dict(zip(open_ones, ask(list(open_ones.values())), strict=True)) if open_ones else {}
    for digest, misfit in by_digest.items():
        if misfit.fits and misfit.asked:
            _remember(digest)
    return [by_digest.get(digest, Misfit()) for digest in digests]


_SEEN: set[str] = set()


def _is_known(digest: str) -> bool:
    folder = _folder()
    return digest in _SEEN or (folder is not None and os.path.exists(folder / digest))


def _remember(digest: str) -> None:
    _SEEN.add(digest)
    folder = _folder()
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / digest).touch()
    except OSError:
        return  # a cache that cannot be written is asked again the next time


def _folder() -> Path | None:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / KNOWN
    except RuntimeError:  # there is no home
        return None


def _here(parts: Sequence[Part]) -> list[Misfit]:
    return [_misfit(part) for part in parts]


def _elsewhere(parts: Sequence[Part]) -> list[Misfit]:
    """Ask a process of its own. One that fails has found nothing: loading will say it."""
    command = [sys.executable, "-m", "harness.models.part_layouts"]
    told = json.dumps([asdict(part) for part in parts])
    try:
        done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=SECONDS, check=True)
        return [_read(one) for one in json.loads(done.stdout.splitlines()[-1])]
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return [Misfit(asked=False) for _ in parts]


def _read(told: Mapping[str, Any]) -> Misfit:
    wrong = tuple((name, tuple(has), tuple(wants)) for name, has, wants in told["wrong"])
    return Misfit(tuple(told["lacking"]), wrong, told["wanted"], told["error"], known=told["known"])


def _misfit(part: Part) -> Misfit:
    """Build a part on the meta device and compare; of one without weights only its class is looked for."""
    kind = _class_of(part)
    if kind is None or not part.config:
        return Misfit(known=kind is not None)
    try:
        return _of_transformers(kind, part) if hasattr(kind, "config_class") else _of_diffusers(kind, part)
    except Exception as error:  # whatever a library raises at a config that it cannot use
        return Misfit(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _class_of(part: Part) -> Any:
    """Return the class of a part, None if none is known; a module of anybody's is not imported."""
    library = (part.library,) if part.library in ("diffusers", "transformers") else ()
    inside = (f"diffusers.pipelines.{part.library}",) if part.library.isidentifier() else ()
    for name in (*library, *inside, *part.modules):
        try:
            return getattr(importlib.import_module(name), part.kind)
        except (ImportError, AttributeError):
            continue
    return None


def _of_transformers(kind: Any, part: Part) -> Misfit:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = kind.config_class.from_dict(parse_json(part.config))
    state = {name: torch.empty(shape, device="meta") for name, shape in part.shapes.items()}
    module, told = kind.from_pretrained(None, config=config, state_dict=state, device_map="meta",
                                        output_loading_info=True, ignore_mismatched_sizes=True)  # fmt: skip
    wrong = [(str(name), tuple(has), tuple(wants)) for name, has, wants in told["mismatched_keys"]]
    return Misfit(tuple(sorted(told["missing_keys"])), tuple(sorted(wrong)), len(module.state_dict()))


def _of_diffusers(kind: Any, part: Part) -> Misfit:
    import accelerate
    import diffusers
    import torch

    diffusers.utils.logging.set_verbosity_error()
    config = parse_json(part.config)
    text = next((name for name, known in inspect.signature(kind.__init__).parameters.items()
                 if type(known.default) in (int, float) and isinstance(config.get(name), str)), None)
    if text is not None:
        return Misfit(error=f"{text} is a text; expected a number")
    try:
        with torch.device("meta"):
            module = kind.from_config(config)
    except (NotImplementedError, RuntimeError):  # a class that computes with numbers while it is built
        with accelerate.init_empty_weights():
            module = kind.from_config(config)
    stored: dict[str, Any] = dict(part.shapes)
    if not part.sharded and hasattr(module, "_fix_state_dict_keys_on_load"):
        module._fix_state_dict_keys_on_load(stored)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    lacking = sorted(name for name in wanted if name not in stored)
    wrong = [(name, tuple(stored[name]), shape) for name, shape in sorted(wanted.items())
             if name in stored and tuple(stored[name]) != shape]  # fmt: skip
    return Misfit(tuple(lacking), tuple(wrong), len(wanted))


def main() -> None:
    """Read parts from stdin and write how they misfit to stdout, both as JSON."""
    told = json.loads(sys.stdin.read())
    parts = [Part(**{**one, "shapes": {name: tuple(shape) for name, shape in one["shapes"].items()},
                     "modules": tuple(one["modules"])}) for one in told]  # fmt: skip
    results = _here(parts)
    sys.stdout.write(json.dumps([asdict(misfit) for misfit in results]) + "\n")


if __name__ == "__main__":
    main()
