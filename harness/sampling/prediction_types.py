"""What a denoiser predicts (noise, a velocity, a flow) and noise: conversions between them at a timestep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import IncompatibleError
from harness.models.conditions import Condition, told
from harness.models.families import kin_of

if TYPE_CHECKING:
    from torch import Tensor

    from harness.models.loaded import LoadedModel


def alpha_bar(scheduler: Any, t: float) -> float:
    """Return the cumulative signal power at timestep `t`; between timesteps sigma is interpolated, as k-samplers do."""
    alphas = scheduler.alphas_cumprod.double().cpu().numpy()
    sigma = np.interp(t, np.arange(len(alphas)), np.sqrt((1 - alphas) / alphas))
    return float(1 / (1 + sigma**2))


def flow_sigma(scheduler: Any, t: float) -> float:
    """Return sigma of z = (1 - sigma) x0 + sigma n at timestep `t` of the running steps, one training step below 1.

    At sigma = 1 latents hold nothing of the image, eps is z whatever is predicted, and no direction could be told
    in it; what is linear in the predictions is the same at any sigma.
    """
    times = scheduler.timesteps.double().cpu().numpy()
    nearest = int(np.abs(times - t).argmin())
    return min(float(scheduler.sigmas[nearest]), 1 - 1 / scheduler.config.num_train_timesteps)


def noise_level(prediction_type: str, scheduler: Any, t: float) -> float:
    """Return what the conversions need to know of timestep `t`: abar for v, sigma for flow; nothing for epsilon."""
    if prediction_type == "epsilon":
        return 1.0
    return flow_sigma(scheduler, t) if prediction_type == "flow" else alpha_bar(scheduler, t)


def epsilon_slope(prediction_type: str, level: float) -> float:
    """Return d eps / d prediction: 1, sqrt(abar) for v (Salimans & Ho 2022, app. D), 1 - sigma for flow.

    Flow matching predicts v = n - x0 (Esser et al. 2024), so that z + (1 - sigma) v = n.
    """
    slopes = {"epsilon": 1.0, "v_prediction": level**0.5, "flow": 1 - level}
    if prediction_type not in slopes:
        raise IncompatibleError(f"prediction type {prediction_type} is not supported by guidance methods.")
    return slopes[prediction_type]


def latent_share(prediction_type: str, level: float) -> float:
    """Return d eps / d z at a fixed prediction: 0, sqrt(1 - abar) for v, 1 for flow."""
    return {"v_prediction": (1 - level) ** 0.5, "flow": 1.0}.get(prediction_type, 0.0)


def to_epsilon(prediction: Tensor, z: Tensor, prediction_type: str, level: float) -> Tensor:
    """Convert a prediction to noise: eps itself, sqrt(abar) v + sqrt(1 - abar) z, or z + (1 - sigma) v for flow."""
    if prediction_type == "epsilon":
        return prediction
    return epsilon_slope(prediction_type, level) * prediction + latent_share(prediction_type, level) * z


def from_epsilon(epsilon: Tensor, z: Tensor, prediction_type: str, level: float) -> Tensor:
    """Invert `to_epsilon`: the prediction that a scheduler expects for this noise."""
    if prediction_type == "epsilon":
        return epsilon
    return (epsilon - latent_share(prediction_type, level) * z) / epsilon_slope(prediction_type, level)


def predict_epsilon(model: LoadedModel, scheduler: Any, z: Tensor, t: Tensor, texts: Condition | Tensor) -> Tensor:
    """Run the bare denoiser on `z` (B, C, H, W), scaled by the scheduler, told `texts`; return float32 noise."""
    dtype = next(model.denoiser.parameters()).dtype
    out = kin_of(model).predict(model, z.to(dtype), t, told(texts).each(lambda value: value.to(dtype)))
    level = noise_level(model.prediction_type, scheduler, float(t))
    return to_epsilon(out.float(), z.float(), model.prediction_type, level)
