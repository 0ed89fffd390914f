"""The lock of every search for adversarial prompts: it runs on the embedded world's own weights or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import IncompatibleError
from harness.lib.weights import PACKAGE_PREFIX
from harness.micro.words import all_words
from harness.models.choice import OWN_PARTS
from harness.models.folder import folder_fingerprint, model_folder

if TYPE_CHECKING:
    from harness.models.loaded import LoadedModel

SOURCE = f"{PACKAGE_PREFIX}harness.micro/weights/"
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
MAX_VOCABULARY = 1000  # tokens; CLIP's has 49,408


def require_embedded_config(config: Mapping[str, Any]) -> None:
    """Raise IncompatibleError unless a model config means the package's own micro weights, untouched.

    Its name says nothing: what counts is where the weights come from, and that no part is put in their place.
    """
    source = str(config.get("source"))
    folder = model_folder(config) if source.startswith(SOURCE) else None
    custom = [part for part in OWN_PARTS if config.get(part) is not None]
    if folder is None or not folder.resolve().is_relative_to(WEIGHTS):
        raise _refusal(config, f"its weights come from {source}")
    if custom:
        raise _refusal(config, f"its {custom[0]} is not the package's")


def require_embedded(model: LoadedModel) -> None:
    """Raise IncompatibleError unless a loaded model is the embedded one: by config, weights and words.

    Methods may be attached to it. The encoder must know no more words than the picture world has.
    """
    require_embedded_config(model.config)
    folder = model_folder(model.config)
    assert folder is not None
    if model.fingerprint != folder_fingerprint(folder, None):
        raise _refusal(model.config, "the weights in memory are not the package's")
    known = model.pipe.text_encoder.get_input_embeddings().weight.shape[0]
    missing = [word for word in all_words() if f"{word}</w>" not in model.pipe.tokenizer.get_vocab()]
    if known > MAX_VOCABULARY or missing:
        raise _refusal(model.config, f"its text encoder knows {known} tokens")


def _refusal(config: Mapping[str, Any], reason: str) -> IncompatibleError:
    return IncompatibleError(
        f"adversarial searches run on the embedded model only, and model {config.get('name')} is another: "
        f"{reason}.", "Set model=micro; for published prompts use bench=ring_a_bell, mma or csv."
    )
