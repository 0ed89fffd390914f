"""A few steps of each part run, lower the loss, and resume where they stopped."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness.micro import train
from harness.micro.models import make_scheduler, make_unet, make_unet_v
from harness.micro.training import clip, common, judge, q16, text_v, unet, vae

TINY = {clip: 16, judge: 12, q16: 40, text_v: 16}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return common.Workspace(tmp_path_factory.mktemp("micro"), scale=0.01)


@pytest.fixture(scope="module")
def losses(workspace):
    """Losses of every part, trained in this process and in order."""
    with pytest.MonkeyPatch.context() as patch:
        for module, steps in TINY.items():
            patch.setattr(module, "RECIPE", replace(module.RECIPE, steps=100 * steps, batch=16, lr=1e-3))
        patch.setattr(vae, "BOTH", replace(vae.BOTH, steps=1200, batch=4))
        patch.setattr(vae, "DECODER", replace(vae.DECODER, steps=400, batch=4))
        out = {part: train.train_part(part, workspace) for part in ("clip", "vae", "judge", "q16", "text_v")}
        again = train.train_part("q16", workspace)
    assert again == []
    return out


@pytest.mark.slow
@pytest.mark.parametrize("part", ["clip", "vae", "judge", "q16", "text_v"])
def test_a_few_steps_lower_the_loss(losses, part):
    values = losses[part]
    assert all(math.isfinite(v) for v in values)
    third = len(values) // 3
    assert sum(values[-third:]) < sum(values[:third])


@pytest.mark.slow
def test_the_unet_trains_on_two_processes_into_a_loadable_pipeline(losses, workspace):
    from harness.micro.sampling import load_pipeline, sample

    brief = common.Workspace(workspace.root, scale=0.0025)
    values = train.train_part("unet", brief)
    assert len(values) == sum(recipe.scaled(brief.scale).steps for recipe in (unet.RECIPE, unet.FOCUS)) >= 15
    assert all(math.isfinite(v) for v in values) and sum(values[-3:]) < 0.9 * sum(values[:3])
    assert sample(load_pipeline(workspace.weights / "pipeline"), ["a nurse"], [0], 2.0, steps=2).shape[0] == 1


@pytest.mark.slow
def test_micro_v_trains_from_the_unet_into_a_loadable_pipeline(losses, workspace):
    from harness.micro.sampling import load_pipeline, sample

    brief = common.Workspace(workspace.root, scale=0.005)
    train.train_part("unet", brief)
    values = train.train_part("unet_v", brief)
    assert len(values) == unet.FINETUNE.scaled(brief.scale).steps and all(math.isfinite(v) for v in values)
    pipeline = load_pipeline(workspace.weights / "pipeline_v")
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert sample(pipeline, ["a nurse"], [0], 2.0, steps=2).shape[0] == 1


def test_micro_v_starts_from_every_weight_of_the_unet_but_those_that_read_texts(tmp_path):
    trained = common.seeded_init(make_unet, 1)
    common.save_half(tmp_path / "diffusion_pytorch_model.safetensors", dict(trained.state_dict()))
    fresh, started = (common.seeded_init(make_unet_v, 2) for _ in range(2))
    unet.start_from(started, tmp_path)
    own, old, new = trained.state_dict(), fresh.state_dict(), started.state_dict()
    kept = {name for name in new if new[name].numel() != own[name].numel()}
    assert kept == {name for name in new if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert all(torch.equal(new[name], old[name]) for name in kept)
    assert all(torch.equal(new[name], own[name].half().float().view_as(new[name])) for name in set(new) - kept)


def test_the_v_loss_is_nought_for_whoever_predicts_v():
    shard = unet.Shard(torch.randn(4, 4, 16, 16), torch.zeros(4, 4, 77, dtype=torch.long), torch.ones(2, 4),
                       torch.zeros(2, 4), torch.zeros(77, dtype=torch.long))
    scheduler = make_scheduler("v_prediction")

    class Text(torch.nn.Module):
        def forward(self, tokens):
            return SimpleNamespace(last_hidden_state=torch.zeros(len(tokens), 77, 8))

    def knowing(error):
        """Predict v from what the loss itself draws, off by `error`."""
        generator = common.torch_rng_of(5)
        index = torch.randint(4, (8,), generator=generator)
        torch.randint(4, (8,), generator=generator)
        torch.rand(8, generator=generator)
        x = shard.latents[index]
        noise = torch.randn(x.shape, generator=generator)

        def predict(z, t, hidden):
            a = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            assert torch.allclose(z, a.sqrt() * x + (1 - a).sqrt() * noise, atol=1e-5)
            return SimpleNamespace(sample=a.sqrt() * noise - (1 - a).sqrt() * x + error)

        return predict

    losses = [unet.noise_loss(knowing(e), Text(), shard, 0, 8, scheduler, (5,)).item() for e in (0.0, 0.5)]
    assert losses[0] == pytest.approx(0, abs=1e-6) and losses[1] > 0.01


def test_an_interrupted_fit_ends_with_the_same_weights(tmp_path):
    def fit(steps, name):
        model = common.seeded_init(lambda: torch.nn.Linear(4, 1), 1)
        recipe = common.Recipe(steps=20, batch=8, lr=0.1, warmup=2)

        def loss_at(step):
            if step == steps:
                raise KeyboardInterrupt
            return model(torch.randn(8, 4, generator=common.torch_rng_of(step))).square().mean()

        one = common.Fit("line", recipe, model, loss_at, tmp_path / name, save_every=5)
        try:
            one.run()
        except KeyboardInterrupt:
            assert steps < 20
        return model.weight.detach().clone()

    whole = fit(99, "a.pt")
    fit(12, "b.pt")
    assert torch.equal(fit(99, "b.pt"), whole)


def test_the_learning_rate_warms_up_stays_flat_and_decays_to_zero():
    recipe = common.Recipe(steps=100, batch=1, lr=1.0, warmup=10, flat=0.5)
    assert recipe.lr_at(0) == pytest.approx(0.1) and recipe.lr_at(30) == 1.0
    assert recipe.lr_at(75) == pytest.approx(0.5) and recipe.lr_at(99) < 0.01


def test_a_loss_that_is_not_finite_ends_the_run():
    with pytest.raises(FloatingPointError, match="step 3"):
        common.report("clip", 3, 10, 1, math.nan)


def test_an_unknown_part_is_refused(capsys):
    assert train.main(["--parts", "cllip"]) == 2
    assert "clip" in capsys.readouterr().err
