"""`python -m harness convert SOURCE TARGET`: pickles and single files, once, into what is read: safetensors.

Nothing of a pickle is run: names, numbers and tensors are all that is taken out of it.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import sys
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.checks import user_path
from harness.cli.answering import answer_words
from harness.cli.arguments import OF_COMMANDS, called, parse_arguments, read_given
from harness.errors import InvalidValueError, MissingResourceError
from harness.lib.atomic import storage_error
from harness.lib.tensor_headers import SUFFIX, FileFault
from harness.lib.torch_headers import content_of
from harness.models.folder import model_folder, pipeline_class, used_parts
from harness.models.part_tensors import COMPVIS, read_checkpoint
from harness.models.weight_files import PICKLES, STEMS, own_stem

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS = ("like",)
HELP = """\
Convert weights from other tools to safetensors. The source is not changed; no code in a pickle is executed.

usage: python -m harness convert SOURCE TARGET [like=FOLDER]

  python -m harness convert weights.pt weights.safetensors        a state dict, gathered activations, any named tensors
  python -m harness convert old_pipeline new_pipeline             a diffusers folder whose weights are .bin
  python -m harness convert model.ckpt new_pipeline like=sd14/    a single-file checkpoint, .safetensors or .ckpt;
                                                                  like: a diffusers folder of its kind, or a cached id
"""
_WEIGHTS = re.compile(r"(?:diffusion_)?pytorch_model(?:\.([A-Za-z0-9_]+))?(?:-\d+-of-\d+)?\.bin")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 converted, 2 a mistake."""
    return answer_words("convert", words, HELP, lambda given: print(_run(given)),
                        "stopped; files already written are complete. To run again:")


def _run(words: Sequence[str]) -> str:
    given = read_given(parse_arguments(words, "convert", OF_COMMANDS, SETTINGS), SETTINGS,
                       things="a source and a target")
    if len(given.things) != 2:
        raise InvalidValueError(f"{len(given.things)} paths are given; a source and a target are needed.",
                                f"See {called('convert')} --help.")
    source, target = (user_path("path", word).resolve() for word in given.things)
    return convert(source, target, given.text("like"))


def convert(source: Path, target: Path, like: str | None = None) -> str:
    """Convert a file or folder and return a line that says what was made. Raises HarnessError."""
    if not source.exists():
        raise MissingResourceError(f"{source} does not exist.")
    if target.exists():
        raise InvalidValueError(f"{target} already exists.", "Choose a new name.")
    made = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            said = _convert(source, made, target.suffix, like)
            os.replace(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, target) or error from error
    return f"{target}: {said}"


def _convert(source: Path, made: Path, ending: str, like: str | None) -> str:
    if source.is_dir():
        return _folder(source, made)
    if _is_compvis(source) and ending != SUFFIX:
        return _single_file(source, made, like)
    if ending != SUFFIX:
        raise InvalidValueError("tensors are written to a file whose name ends with .safetensors.",
                                f"Name it {source.stem}{SUFFIX}.")
    return _file(source, made)


def _is_compvis(source: Path) -> bool:
    content = content_of(source)
    inner = content.get("state_dict", content)
    return any(str(name).startswith(COMPVIS) for name in (inner if isinstance(inner, Mapping) else content))


def _file(source: Path, made: Path) -> str:
    tensors, left = named_tensors(_content(source))
    if not tensors:
        raise InvalidValueError(f"{source} holds no named tensors.")
    _save(tensors, made)
    more = f"; skipped, not tensors: {', '.join(left[:5])}" if left else ""
    return f"{len(tensors)} tensors{more}"


def named_tensors(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a checkpoint by name, those of inner dicts by both names, and the names of what is none."""
    import torch

    inner = content.get("state_dict")
    named = inner if isinstance(inner, Mapping) else content
    tensors, left = {}, [str(name) for name in content if named is inner and name != "state_dict"]
    for name, value in named.items():
        if torch.is_tensor(value):
            tensors[str(name)] = value
        elif isinstance(value, Mapping) and all(map(torch.is_tensor, value.values())):
            tensors |= {f"{name}.{inner_name}": one for inner_name, one in value.items()}
        else:
            left.append(str(name))
    return tensors, left


def _content(source: Path) -> dict[str, Any]:
    """Read a file: safetensors and torch's as everywhere, a plain pickle with stand-ins for all but tensors."""
    content_of(source)  # whole, and of names and tensors only
    with source.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if source.suffix == SUFFIX or start == b"PK\x03\x04" or source.suffix != ".pkl":
            return read_checkpoint(source)[0]
        try:
            content: dict[str, Any] = _Tensors(stream).load()
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError) as error:
            raise InvalidValueError(f"{source} cannot be read as plain tensors: {str(error)[:120]}") from None
    return content


class _Tensors(pickle._Unpickler):
    """Reads a pickle of tensors by the few functions that rebuild one."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        allowed = {("collections", "OrderedDict"): OrderedDict, ("torch", "Size"): torch.Size,
                   ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
                   ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
                   ("torch.storage", "_load_from_bytes"): _storage}  # fmt: skip
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")
        return allowed[module, name]


def _storage(data: bytes) -> Any:
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _save(tensors: Mapping[str, Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, file, {"format": "pt"})


def _folder(source: Path, made: Path) -> str:
    """Write a diffusers folder with its pickled weights as safetensors, and everything else that is read as it is."""
    try:
        parts = [part for part in sorted(used_parts(source)) if (source / part).is_dir()]
    except FileFault as fault:
        raise fault.about(f"{source}:").as_error() from None
    made.mkdir()
    shutil.copy(source / "model_index.json", made)
    count = 0
    for part in parts:
        (made / part).mkdir()
        for file in sorted(source.joinpath(part).iterdir()):
            if file.is_file() and not file.name.endswith((*PICKLES, ".msgpack", ".bin.index.json", ".h5", ".onnx")):
                shutil.copy(file, made / part)
        count += _part(source / part, made / part)
    if not count:
        raise InvalidValueError(f"{source} has no pickled weights (pytorch_model.bin, diffusion_pytorch_model.bin).")
    return f"{count} files of weights in {len(parts)} parts"


def _part(source: Path, made: Path) -> int:
    """Write a part's .bin weights, shards as one, in each variant; return how many files."""
    variants: dict[str | None, list[Path]] = {}
    for file in sorted(source.iterdir()):
        if match := _WEIGHTS.fullmatch(file.name):
            variants.setdefault(match[1], []).append(file)
    stem = own_stem(source) or STEMS[0]
    for variant, files in variants.items():
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= named_tensors(read_checkpoint(file)[0])[0]
        target = made / f"{stem}{f'.{variant}' if variant else ''}{SUFFIX}"
        if not target.exists():
            _save(tensors, target)
    return len(variants)


def _single_file(source: Path, made: Path, like: str | None) -> str:
    """Write the pipeline of a single-file checkpoint, with the configs and tokenizers of a folder of its kind."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    folder = model_folder({"source": like}) if like else None
    kind = pipeline_class(folder) if folder is not None else None
    if folder is None or kind is None:
        raise InvalidValueError(f"like={like}: a diffusers folder, or the id of a hub model in the local cache, of the "
                                "same kind as the checkpoint is needed; it has the configs and the tokenizer.",
                                "Set like=<folder>, such as Stable Diffusion 1.4's.")
    file = source
    if source.suffix != SUFFIX:
        file = made.with_name(f"{made.name}{SUFFIX}")
        _save(named_tensors(_content(source))[0], file)
    try:
        pipeline = getattr(diffusers, kind)
        unused = {"safety_checker": None} if "safety_checker" in signature(pipeline.__init__).parameters else {}
        pipe = pipeline.from_single_file(str(file), config=str(folder), local_files_only=True, **unused)
        pipe.save_pretrained(made)
    except (SingleFileComponentError, OSError, ValueError, RuntimeError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidValueError(f"{source} cannot be made a {kind} with the configs of {folder}: {reason}") from None
    finally:
        if file != source:
            file.unlink(missing_ok=True)
    return f"a {kind}"


if __name__ == "__main__":
    sys.exit(main())
