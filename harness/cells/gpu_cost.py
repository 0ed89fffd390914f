"""GPU-hours of a plan by published throughput: Stable Diffusion 1.5's, and other models by their counted work."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "diffusers docs, optimization/torch2.0, 2023: SD 1.5, 512 pixels, fp16, guidance"
TFLOP_PER_IMAGE_STEP = 2 * 0.80  # of SD 1.5 there: two rows of its U-Net, counted on its published config


@dataclass(frozen=True)
class Published:
    """A GPU, how it was run, and how many steps of one image it made a second: iterations times batch."""

    gpu: str
    setting: str
    image_steps_per_second: float

    def hours(self, tflop: float) -> float:
        """Return the hours that so much work takes at this speed."""
        return tflop / (self.image_steps_per_second * TFLOP_PER_IMAGE_STEP) / 3600


TABLE = (
    Published("A100", "batch 16", 16 * 3.60),
    Published("A100", "batch 16, compiled, channels_last", 16 * 4.68),
    Published("A100", "batch 1", 23.13),
    Published("V100", "batch 4", 4 * 5.9),
    Published("T4", "batch 4", 4 * 1.8),
)


def gpu_line(work: float, n_unknown: int = 0) -> str:
    """Say what so much work, in TFLOP, takes on each GPU of the table; `n_unknown` cells come on top of it."""
    hours = "; ".join(f"{row.gpu}, {row.setting}: {hours_text(row.hours(work))}" for row in TABLE)
    without = f"; cells of unknown work, not counted: {n_unknown}" if n_unknown else ""
    return (f"GPU-hours: {hours} (published throughput, {SOURCE}; other models and methods by their work; no scoring"
            f"{without})")


def hours_text(hours: float) -> str:
    """Write hours with two or three figures."""
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2g}"
