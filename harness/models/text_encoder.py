"""What a text encoder says of a text beyond its embedding: tokens and pooled vectors. CLIP encoders (sd1, sd2, sdxl).

Of SDXL's two encoders these read the first, CLIP-L; those named `last_` read the second, OpenCLIP bigG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


def token_ids(model: LoadedModel, text: str) -> Tensor:
    """Return the tokens (1, n + 2) of `text` with begin and end, unpadded, cut to what the encoder reads."""
    tokenizer = model.pipe.tokenizer
    ids: Tensor = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return ids


def pooled(model: LoadedModel, ids: Tensor) -> Tensor:
    """Return the vector of the end token after the last norm, (B, D) float32 on the CPU, for `ids` (B, n)."""
    import torch

    # Not pooler_output: encoders that say eos_token_id=2, as SD 1's, take the highest token, so a learned one for it.
    end = ids.eq(model.pipe.tokenizer.eos_token_id).int().argmax(-1)
    with torch.no_grad():
        states: Tensor = model.pipe.text_encoder(ids.to(model.device)).last_hidden_state
    return states[torch.arange(len(ids)), end].float().cpu()


def mean_token(model: LoadedModel, text: str) -> Tensor:
    """Return the mean (D,) of the embeddings of a text's own tokens, without begin, end and padding; 0 for none."""
    import torch

    count = token_ids(model, text).shape[1] - 2
    embeds = model.embed(text)[1 : 1 + count].float().cpu()
    return embeds.mean(0) if count else torch.zeros(embeds.shape[1])


def last_token_ids(model: LoadedModel, text: str) -> Tensor:
    """Return `token_ids` for the encoder whose channels come last in an embedding: sdxl's second, else the only one."""
    tokenizer = getattr(model.pipe, "tokenizer_2", None)
    if tokenizer is None:
        return token_ids(model, text)
    ids: Tensor = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return ids


def last_overflows(model: LoadedModel, text: str) -> bool:
    """Return whether that encoder's tokenizer makes more of a text than the encoder reads, begin and end included."""
    tokenizer = getattr(model.pipe, "tokenizer_2", None) or model.pipe.tokenizer
    most = tokenizer.model_max_length
    return len(tokenizer(text, truncation=True, max_length=most + 1).input_ids) > most


def last_pooled(model: LoadedModel, ids: Tensor) -> Tensor:
    """Return `pooled` of that encoder, for `last_token_ids`; of SDXL's second one after its projection (text_embeds).
    """
    import torch

    encoder = getattr(model.pipe, "text_encoder_2", None)
    if encoder is None:
        return pooled(model, ids)
    end = ids.eq(model.pipe.tokenizer_2.eos_token_id).int().argmax(-1)
    with torch.no_grad():
        states: Tensor = encoder(ids.to(model.device)).last_hidden_state
        embeds: Tensor = encoder.text_projection(states[torch.arange(len(ids)), end])
    return embeds.float().cpu()
