"""A few steps of each part run, lower the loss, and resume where they stopped."""

import math
from dataclasses import replace

import pytest
import torch

from harness.micro import train
from harness.micro.training import clip, common, judge, q16, unet, vae

TINY = {clip: 16, judge: 12, q16: 40}


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
        out = {part: train.train_part(part, workspace) for part in ("clip", "vae", "judge", "q16")}
        again = train.train_part("q16", workspace)
    assert again == []
    return out


@pytest.mark.parametrize("part", ["clip", "vae", "judge", "q16"])
def test_a_few_steps_lower_the_loss(losses, part):
    values = losses[part]
    assert all(math.isfinite(v) for v in values)
    third = len(values) // 3
    assert sum(values[-third:]) < sum(values[:third])


def test_the_unet_trains_on_two_processes_into_a_loadable_pipeline(losses, workspace):
    from harness.micro.sampling import load_pipeline, sample

    brief = common.Workspace(workspace.root, scale=0.0025)
    values = train.train_part("unet", brief)
    assert len(values) == sum(recipe.scaled(brief.scale).steps for recipe in (unet.RECIPE, unet.FOCUS)) >= 15
    assert all(math.isfinite(v) for v in values) and sum(values[-3:]) < 0.9 * sum(values[:3])
    assert sample(load_pipeline(workspace.weights / "pipeline"), ["a nurse"], [0], 2.0, steps=2).shape[0] == 1


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
