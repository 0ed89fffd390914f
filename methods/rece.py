"""RECE (Gong et al., ECCV 2024): UCE, then what still brings the concept back is found in closed form and erased too.

Each epoch derives for every concept the embedding that makes the edited K and V answer as the original ones did,
c' = (lam_r I + sum W_e^T W_e)^-1 (sum W_e^T W_0) c, token by token, and maps it to the guide by another UCE step on
the edited matrices. The release keeps the epoch with the lowest validation rate of an evaluator; here it is the last,
so that no evaluator leaks into training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from harness.setting_types import Scale
from harness.training.closed_form import edit_matrix, kept_tokens, paired_tokens, projections, solved
from methods.uce import UCE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


def adversarial(C: Tensor, S: Tensor, F: Tensor, lam_r: float) -> Tensor:
    """Return c' (N, D) for the rows of C (N, D): RECE eq. 8, its regulariser drawing to 0 ("close_regzero").

    S = sum W_0^T W_0 (D, D) over all matrices, each edited to W_e = W_0 F: sum W_e^T W_e = F^T S F, and
    sum W_e^T W_0 = F^T S.
    """
    import torch

    identity = torch.eye(len(S), dtype=torch.float64, device=S.device)
    return C.double() @ solved(lam_r * identity + F.T @ S @ F, F.T @ S, "method.lam_r").T


@dataclass(frozen=True)
class RECE(UCE):
    """Defaults: nudity as released (3 epochs, lam_r 0.1, b = lam = 0.1); `epochs` 0 is UCE.

    Those are of the epochs; `uce_lam` and `uce_preserve_scale` are of the UCE before them. Both keep "" and `preserve`,
    each once, as the release's scripts for artists and objects; that for nudity keeps "" once for each concept, which
    is `preserve_scale` times their number.
    """

    preserve_scale: Scale = 0.1
    uce_preserve_scale: Scale = 1.0
    uce_lam: Scale = 0.5
    lam: Scale = 0.1
    tokens: Literal["last", "tail"] = "tail"
    epochs: Annotated[int, Ge(0), Le(1000)] = 3
    lam_r: Scale = 0.1
    name: str = "rece"

    kind: ClassVar[str] = "rece"
    version: ClassVar[int] = 2  # 2: texts in float32 whatever the dtype, what is kept once

    @property
    def kept(self) -> tuple[str, ...]:
        """What is preserved, whichever tokens are edited: "" as well, and nothing twice."""
        return tuple(dict.fromkeys(("", *self.preserve, *self.listed())))

    @property
    def first(self) -> UCE:
        """The UCE that the epochs start from."""
        return UCE(self.erase, self.guides, self.kept, self.erase_scale, self.uce_preserve_scale,
                   self.uce_lam, self.expand_prompts, self.concept_type, self.tokens)

    def edit(self, model: LoadedModel) -> Tensor:
        """Return E (D, D) with W* = W (I + E), of UCE and all epochs together."""
        import torch

        E = self.first.edit(model)
        identity = torch.eye(len(E), dtype=torch.float64, device=E.device)
        S = sum((W.double().T @ W.double() for W in projections(model.denoiser).values()), torch.zeros_like(E))
        pairs = [paired_tokens(model, text, guide, "all") for text, guide in zip(self.erase, self.guides or (),
                                                                                 strict=True)]
        C, G = (torch.cat(side) for side in zip(*pairs, strict=True))
        P = kept_tokens(model, self.kept, "all")
        F = identity + E
        for _ in range(self.epochs):
            adversary = adversarial(C, S, F, self.lam_r)
            F = F @ (identity + edit_matrix(adversary, G, P, self.erase_scale, self.preserve_scale, self.lam))
        return F - identity
