"""Textual inversion (Gal et al., 2023) with weighted images: learn the embedding of a new word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le, MinLen

from harness.declared import Declared
from harness.errors import InvalidValueError
from harness.method import Progress
from harness.setting_types import BatchSize, Iterations, Must, Number, OneOrMore
from harness.training.frozen import frozen_denoiser, frozen_text_encoder
from harness.training.loop_memory import Carried, LoopMemory, adam_step
from methods.hfi_tokens import soft_tokens, token_text, word_vectors

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from harness.models.loaded import LoadedModel

PLACE = "{}"
Template = Annotated[str, Must(f"a text with {PLACE} for the word", f"texts with {PLACE} for the word",
                               lambda text: PLACE in text)]


def inversion_loss(r: Tensor, n: Tensor, e: Tensor) -> Tensor:
    """HFI's objective for v: E r(x) |n - e|^2, with r (B,) in [0, 1]; n, e (B, C, H, W)."""
    return (r * (n - e).square().flatten(1).mean(1)).mean()


@dataclass(frozen=True)
class TokenTraining(Declared):
    """How v* is learned from the `top` images. All of it our guess, the template too."""

    settings_of: ClassVar[str] = "method.inversion"

    top: Annotated[int, Ge(1), Le(10**6)] = 100
    vectors: Annotated[int, Ge(1), Le(64)] = 1
    iterations: Iterations = 2000
    learning_rate: Annotated[Number, Ge(1e-12), Le(10)] = 5e-4
    batch: BatchSize = 4
    templates: Annotated[OneOrMore[Template], MinLen(1)] = ("a photo of {}",)


class TokenTrainer:
    """Adam on v alone, through the frozen text encoder and denoiser."""

    def __init__(self, model: LoadedModel, recipe: TokenTraining, name: str, generator: Generator) -> None:
        self.model, self.recipe, self.name, self.generator = model, recipe, name, generator
        self.scheduler = model.scheduler("ddpm")

    def run(self, word: str, images: Sequence[np.ndarray], r: Tensor, progress: Progress
            ) -> tuple[Tensor, list[float]]:
        """Start at `word`; return v (V, D) float32 on the CPU, and the losses. `r` (N,) in [0, 1] weighs images."""
        import torch

        if not float(r.max()) > 0:
            raise InvalidValueError("the reward of every image is zero: nothing shows the concept.")
        recipe = self.recipe
        latents = self._latents(images)
        with frozen_text_encoder(self.model), frozen_denoiser(self.model):
            v = word_vectors(self.model, word, recipe.vectors).requires_grad_()
            adam = torch.optim.AdamW([v], lr=recipe.learning_rate, weight_decay=0.0)
            memory = LoopMemory(self.model.training_folder, adam, {"v": v}, Carried(self.generator))
            with memory, soft_tokens(self.model, self.name, v), torch.enable_grad():
                for step in memory.remaining(recipe.iterations):
                    loss = self._loss(latents, r.to(self.model.device))
                    value = memory.checked(float(loss.detach()), "the learned word",
                                           "method.inversion.learning_rate")
                    adam.zero_grad()
                    loss.backward()
                    adam_step(memory, adam, value)
                    progress("learned word", step + 1, recipe.iterations)
        return v.detach().cpu(), memory.losses

    def _latents(self, images: Sequence[np.ndarray]) -> Tensor:
        """Encode the middle square of images at the model's own size: (N, C, H, W) float32."""
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        pipe, side = self.model.pipe, self.model.denoiser.config.sample_size * self.model.pipe.vae_scale_factor
        latents = []
        for image in images:
            resized = np.array(ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.LANCZOS))
            x = torch.from_numpy(resized).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                coded = pipe.vae.encode(x.to(self.model.device, pipe.vae.dtype)).latent_dist.mode()
            latents.append(coded.float() * pipe.vae.config.scaling_factor)
        return torch.cat(latents)

    def _loss(self, latents: Tensor, r: Tensor) -> Tensor:
        import torch

        def draw(high: int, count: int = self.recipe.batch) -> Tensor:
            return torch.randint(high, (count,), generator=self.generator)

        picked = draw(len(latents)).to(latents.device)
        z_0 = latents[picked]
        n = torch.randn(z_0.shape, generator=self.generator).to(z_0.device)
        t = draw(self.scheduler.config.num_train_timesteps).to(z_0.device)
        z = self.scheduler.add_noise(z_0, n, t)
        token = token_text(self.name, self.recipe.vectors)
        prompts = [self.recipe.templates[index].replace(PLACE, token)
                   for index in draw(len(self.recipe.templates)).tolist()]
        c, _ = self.model.pipe.encode_prompt(prompts, self.model.device, 1, do_classifier_free_guidance=False)
        e = self.model.denoiser(z, t, encoder_hidden_states=c.float(), return_dict=False)[0]
        is_v = self.model.prediction_type == "v_prediction"
        return inversion_loss(r[picked], self.scheduler.get_velocity(z_0, n, t) if is_v else n, e.float())
