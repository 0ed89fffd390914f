"""A model of a third party for tests: random-weight, in pixels, with no pipeline of diffusers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

from harness.models.families import DenoiserCall, Plugin

WIDTH = 6


class Toy(Plugin):
    """Walks from noise to a picture in a few steps of classifier-free guidance, conditional row first."""

    part: ClassVar[str] = "network"
    roles: ClassVar[tuple[str, ...]] = ("cond", "uncond")

    def missing(self, config):
        return None if config.get("key") == "sesame" else "the toy needs model.key=sesame"

    def fingerprint(self, config):
        return "0" * 64

    def open(self, config, device):
        import torch

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.mix = torch.nn.Conv2d(3 + WIDTH, 3, 3, padding=1)

            def forward(self, x, t, texts):
                told = texts.mean(1)[:, :, None, None].expand(-1, -1, *x.shape[2:])
                return self.mix(torch.cat([x, told], 1))

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = Network().eval()
        return SimpleNamespace(network=network, config={}, scheduler=SimpleNamespace(timesteps=()))

    def text_limits(self, model):
        return []

    def encode(self, model, text):
        import torch

        generator = torch.Generator().manual_seed(sum(text.encode()))
        return torch.randn(4, WIDTH, generator=generator), None

    def taken(self, args, kwargs):
        return DenoiserCall(*args, kwargs["texts"], None, {}, {})

    def run(self, forward, call):
        return forward(call.sample, call.timestep, texts=call.embeds)

    def answer(self, prediction):
        return prediction

    def noise_shape(self, model, height, width):
        return 3, height, width

    def draw(self, model, batch):
        import torch

        pipe, x, bundle = model.pipe, batch.noise, batch.bundle
        w = max(item.guidance_scale for item in batch.items)
        pipe.scheduler.timesteps = range(batch.settings.num_inference_steps)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps:
                p, u = pipe.network(torch.cat([x, x]), t, texts=torch.cat([bundle.cond, bundle.uncond])).chunk(2)
                x = x - 0.2 * (u + w * (p - u))
        return x

    def decode(self, model, latents, batch):
        return latents.sigmoid().permute(0, 2, 3, 1).numpy()


class OneRow(Toy):
    """The same without guidance."""

    roles: ClassVar[tuple[str, ...]] = ("cond",)


class NoPlugin:
    """Not a model at all."""


class Unfinished(Plugin):
    """Cannot open its files."""

    def fingerprint(self, config):
        return "0" * 64
