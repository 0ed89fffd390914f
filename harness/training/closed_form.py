"""Closed-form edits of cross-attention keys and values (UCE): the maths, and the token embeddings it works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.errors import InvalidValueError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

SINGULAR = 1e-14  # smallest over largest eigenvalue, in float64


def edit_matrix(C: Tensor, G: Tensor, P: Tensor, a: float, b: float, lam: float) -> Tensor:
    """Return E (D, D), float64, with W* = W (I + E) for every W (O, D): UCE eq. 7 with W factored out.

    Rows of C (N, D) are embeddings to edit, those of G (N, D) what they become, those of P (M, D) stay. From
    W* = (lam W + a sum W g c^T + b sum W p p^T) M^-1, M = lam I + a sum c c^T + b sum p p^T, follows
    E = a sum (g - c) c^T M^-1: no rounding is left where there is nothing to edit.
    """
    import torch

    C, G, P = C.double(), G.double(), P.double()
    M = lam * torch.eye(C.shape[1], dtype=torch.float64, device=C.device) + a * C.T @ C + b * P.T @ P
    return solved(M, a * C.T @ (G - C)).T


def solved(M: Tensor, A: Tensor, setting: str = "method.lam") -> Tensor:
    """Return M^-1 A for a symmetric M (D, D). Raises InvalidValueError if M is singular.

    `setting` names the one that makes M regular.
    """
    import torch

    if not torch.isfinite(M).all():
        raise InvalidValueError("the closed form has a matrix that is not finite: text embeddings are NaN or infinite.")
    values = torch.linalg.eigvalsh(M)
    if values[0] <= SINGULAR * values[-1]:
        raise InvalidValueError("the closed form has a singular matrix: its concepts do not span the embedding space.",
                                f"Set {setting} above 0.")
    return torch.linalg.solve(M, A)


def projections(denoiser: Any) -> dict[str, Tensor]:
    """Return each cross-attention K and V matrix (O, D) by its parameter's name, in the network's order."""
    endings = ("attn2.to_k.weight", "attn2.to_v.weight")
    return {name: value.detach() for name, value in denoiser.named_parameters() if name.endswith(endings)}


def deltas(denoiser: Any, E: Tensor) -> dict[str, Tensor]:
    """Return W E (O, D), float32 on the CPU, for each cross-attention K and V matrix."""
    return {name: (W.double() @ E).float().cpu() for name, W in projections(denoiser).items()}


def relative_change(denoiser: Any, changes: Mapping[str, Tensor]) -> float:
    """Return |W* - W| / |W| over all matrices together."""
    weights = projections(denoiser)
    moved = sum(float(delta.double().square().sum()) for delta in changes.values())
    return float((moved / sum(float(weights[name].double().square().sum()) for name in changes)) ** 0.5)


def subject_index(model: LoadedModel, text: str) -> int:
    """Return the position of the last subject token, the one before the end token; 0 (begin token) for "".

    Of SDXL's two tokenizers the first one's, as UCE's release: both read CLIP's vocabulary.
    """
    tokenizer = model.pipe.tokenizer
    return len(tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids) - 2


def paired_tokens(model: LoadedModel, text: str, guide: str, tokens: str) -> tuple[Tensor, Tensor]:
    """Return embeddings (n, D) of `text` and of `guide`, row by row: what is edited and what it becomes.

    tokens: "last" is the last subject token (UCE's current release); "tail" all from there to the end, cut to the
    shorter (its first release, on which RECE builds); "all" every position (RECE's own step).
    """
    with model.float32_texts():
        c, g = model.embed(text), model.embed(guide)
    if tokens == "all":
        return c, g
    i, j = subject_index(model, text), subject_index(model, guide)
    n = 1 if tokens == "last" else len(c) - max(i, j)
    return c[i : i + n], g[j : j + n]


def kept_tokens(model: LoadedModel, texts: Sequence[str], tokens: str) -> Tensor:
    """Return embeddings (M, D) of what should stay: the last subject tokens, or every position, as the releases do."""
    import torch

    with model.float32_texts():
        rows = [paired_tokens(model, text, text, "last" if tokens == "last" else "all")[0] for text in texts]
        return torch.cat(rows) if rows else model.embed("")[:0]
