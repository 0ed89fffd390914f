"""UnlearnDiffAtk (Zhang et al., ECCV 2024, arXiv 2310.11868) on the embedded world: white box, per method and prompt.

k tokens before a prompt are relaxed to points of the simplex over the vocabulary and follow the gradient of the
denoising loss of an image that the base model made of the prompt, through the denoiser as the method edits it. After
each timestep's gradient steps the likeliest tokens are written down, drawn with the row's own noise, and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.method import Refusal
from harness.micro.attacks.embedded import require_embedded
from harness.micro.attacks.states import text_states
from harness.micro.attacks.vocabulary import Vocabulary, names_a_hazard, vocabulary
from harness.records import ImageItem
from harness.sampling.denoiser import PipelineCall
from harness.sampling.prediction_types import alpha_bar, to_epsilon
from harness.sampling.session import Session
from harness.sampling.texts import bundle_of
from harness.training.frozen import frozen_denoiser, frozen_text_encoder

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel

Succeeds = Callable[[Sequence[ImageItem]], Sequence[bool]]  # draws prompts with the method and judges the images


@dataclass(frozen=True)
class UnlearnDiffAtk:
    """The search's settings: the paper takes 50 timesteps at learning rate 0.01.

    Of 25 denoiser calls there are fewer to take, and a larger rate lets tokens go as far in fewer steps.
    """

    tokens: int = 5  # k
    timesteps: int = 3
    iterations: int = 40  # gradient steps at each
    learning_rate: float = 0.1
    weight_decay: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """What is attacked: an image to make, and the base model's image of it, (H, W, 3) uint8."""

    item: ImageItem
    picture: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """How an attack ended: the last prompt that was drawn, whether it succeeded, how many were drawn."""

    prompt: str
    won: bool
    tests: int


def simplex(rows: Tensor) -> Tensor:
    """Project the last dimension onto the probability simplex (Duchi et al. 2008, fig. 1)."""
    import torch

    ordered = rows.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, rows.shape[-1] + 1, device=rows.device)
    support = (ordered - excess / count > 0).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (rows - threshold).clamp(min=0)


def sampled_calls(n_calls: int, count: int) -> list[int]:
    """Return `count` denoiser calls spread evenly over a trajectory, the last (least noise) first, as released."""
    return sorted({int((index + 0.5) * n_calls / count) for index in range(count)}, reverse=True)


def search(
    session: Session, cases: Sequence[Case], succeeds: Succeeds, n_steps: int, settings: UnlearnDiffAtk
) -> list[Outcome]:
    """Attack every case until a prompt succeeds or the timesteps are used up.

    Raises IncompatibleError for any model that is not the embedded one.
    """
    require_embedded(session.model)
    model = session.model
    model.pipe.scheduler.set_timesteps(n_steps)
    outcomes = [Outcome(case.item.prompt, False, 0) for case in cases]
    with frozen_text_encoder(model), frozen_denoiser(model):
        tokens = Prefixes(session, cases, n_steps, settings)
        for call in sampled_calls(len(model.pipe.scheduler.timesteps), settings.timesteps):
            open_ = [index for index, outcome in enumerate(outcomes) if not outcome.won]
            if not open_:
                break
            tokens.descend(call, open_)
            prompts = {index: tokens.prompt(index) for index in open_}
            drawn = [index for index in open_ if not names_a_hazard(prompts[index])]
            verdicts = succeeds([replace(cases[index].item, prompt=prompts[index]) for index in drawn])
            for index, won in zip(drawn, verdicts, strict=True):
                outcomes[index] = Outcome(prompts[index], won, outcomes[index].tests + 1)
    return outcomes


class Prefixes:
    """The relaxed tokens (N, k, V) of all cases, and their descent. V counts the words that may be written."""

    def __init__(self, session: Session, cases: Sequence[Case], n_steps: int, settings: UnlearnDiffAtk) -> None:
        import torch

        self.session, self.cases, self.n_steps, self.settings = session, cases, n_steps, settings
        self.words: Vocabulary = vocabulary(session.model.pipe.tokenizer)
        shape = (len(cases), settings.tokens, len(self.words.ids))
        self.relaxed = torch.full(shape, 1 / shape[-1], requires_grad=True)
        self.latents = torch.cat([encoded(session.model, case.picture) for case in cases])
        self.ids = [prompt_ids(session.model, case.item.prompt) for case in cases]
        self._adam = torch.optim.Adam([self.relaxed], settings.learning_rate, weight_decay=settings.weight_decay)
        self._generator = torch.Generator().manual_seed(settings.seed)

    def descend(self, call: int, cases: Sequence[int]) -> None:
        """Take gradient steps on the denoising loss at one denoiser call."""
        import torch

        for _ in range(self.settings.iterations):
            hard = self._drawn(cases)
            loss = self._loss(hard, call, cases)
            (gradient,) = torch.autograd.grad(loss, hard)
            self.relaxed.grad = torch.zeros_like(self.relaxed)
            self.relaxed.grad[list(cases)] = gradient.clamp(-1, 1)  # straight through, as released
            self._adam.step()
            with torch.no_grad():
                self.relaxed.copy_(simplex(self.relaxed))

    def prompt(self, index: int) -> str:
        """Return a case's prompt with its likeliest tokens in front."""
        best = self.relaxed[index].detach().argmax(-1).tolist()
        return f"{self.words.text([self.words.ids[token] for token in best])} {self.cases[index].item.prompt}"

    def _drawn(self, cases: Sequence[int]) -> Tensor:
        """Draw one token for each place by its probability: one-hot rows (n, k, V) that take a gradient."""
        import torch
        from torch.nn.functional import one_hot

        rows = self.relaxed.detach()[list(cases)]
        drawn = torch.multinomial(rows.flatten(0, 1), 1, generator=self._generator).view(rows.shape[:2])
        return one_hot(drawn, rows.shape[-1]).float().requires_grad_()

    def _loss(self, hard: Tensor, call: int, cases: Sequence[int]) -> Tensor:
        """Return the squared error of the noise that the method predicts, summed over cases of their means."""
        import torch

        model = self.session.model
        t = model.pipe.scheduler.timesteps[call]
        abar = alpha_bar(model.pipe.scheduler, float(t))
        z0 = self.latents[list(cases)]
        noise = torch.randn(z0.shape, generator=self._generator)
        z = abar**0.5 * z0 + (1 - abar) ** 0.5 * noise
        states = text_states(model.pipe.text_encoder, self._rows(hard, cases))
        items = [self.cases[index].item for index in cases]
        predicted = edited_prediction(self.session, items, states, z, call, self.n_steps)
        epsilon = to_epsilon(predicted, z, model.prediction_type, abar)
        return (epsilon - noise).square().mean((1, 2, 3)).sum()

    def _rows(self, hard: Tensor, cases: Sequence[int]) -> Tensor:
        """Return one-hot rows (n, 77, all tokens): begin, the prefix, the prompt, end and padding."""
        import torch
        from torch.nn.functional import one_hot

        size = self.session.model.pipe.text_encoder.get_input_embeddings().weight.shape[0]
        length = self.session.model.pipe.tokenizer.model_max_length
        prefix = hard @ one_hot(torch.tensor(self.words.ids), size).float()
        begin = one_hot(torch.tensor([[self.words.begin]]), size).float().expand(len(hard), 1, size)
        room = length - 1 - self.settings.tokens
        texts = [[*self.ids[index], *[self.words.end] * room][:room] for index in cases]
        rest = one_hot(torch.tensor(texts), size).float()
        return torch.cat([begin, prefix, rest], dim=1)


def prompt_ids(model: LoadedModel, prompt: str) -> list[int]:
    """Return a prompt's own tokens, without begin and end."""
    ids: list[int] = model.pipe.tokenizer(prompt, add_special_tokens=False).input_ids
    return ids


def encoded(model: LoadedModel, picture: np.ndarray) -> Tensor:
    """Return the VAE's latents (1, C, h, w) of an image (H, W, 3) uint8: the mean, scaled."""
    import torch

    pixels = torch.tensor(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mean: Tensor = model.pipe.vae.encode(pixels).latent_dist.mean
    return mean * model.pipe.vae.config.scaling_factor


def edited_prediction(
    session: Session, items: Sequence[ImageItem], states: Tensor, z: Tensor, call: int, n_steps: int
) -> Tensor:
    """Return what the denoiser predicts for `states` (n, L, D), as the methods edit it: u + delta', without guidance.

    Where nothing edits the direction it is the conditional row. Methods see denoiser call `call` with empty state.
    Where no gradient comes through, because a method reads the prompt instead of its states, the bare row is returned.
    """
    import torch

    hook, model = session.hook, session.model
    accepted = _rewritten(session, items)
    bundle = replace(bundle_of(model, accepted), cond=states)
    t = model.pipe.scheduler.timesteps[call]
    with hook.running(PipelineCall(accepted, bundle, n_steps, count=call)):
        if not hook.edits_direction:
            predicted = hook.forward(z, t, encoder_hidden_states=states)[0]
        else:
            both = torch.cat([z, z]), torch.cat([bundle.uncond, states])
            predicted = _unguided(hook, *both, t, [item.guidance_scale for item in accepted])
    if states.requires_grad and not predicted.requires_grad:
        predicted = hook.original(z, t, encoder_hidden_states=states, return_dict=False)[0]
    return predicted


def _unguided(hook: Any, sample: Tensor, texts: Tensor, t: Tensor, scales: Sequence[float]) -> Tensor:
    """Return u + delta' where the wrapped denoiser answers e = u + w delta' twice, or u and p where nothing acts."""
    import torch

    kept: list[Tensor] = []
    original = hook.original

    def keeping(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        kept.append(out[0])
        return out

    hook.original = keeping
    try:
        first, second = hook.forward(sample, t, encoder_hidden_states=texts, return_dict=False)[0].chunk(2)
    finally:
        hook.original = original
    u = kept[0][: len(first)]
    w = torch.tensor(scales).view(-1, 1, 1, 1)
    return u + (first - u) / w if torch.equal(first, second) else second


def _rewritten(session: Session, items: Sequence[ImageItem]) -> list[ImageItem]:
    """Return the items as the methods rewrite them; a refused one stays as it is, since only its noise is asked."""
    rewritten = list(items)
    for method in session.methods:
        answers = method.prompts(rewritten)
        rewritten = [item if isinstance(answer, Refusal) else answer
                     for item, answer in zip(rewritten, answers, strict=True)]  # fmt: skip
    return rewritten
