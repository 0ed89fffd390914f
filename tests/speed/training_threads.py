"""Which operations give other bits with more threads, and what one thread costs a training.

python -m tests.speed.training_threads
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.method import Method
from harness.training.artifacts import prepare_all
from tests.support.fixtures_models import micro_model
from tests.support.methods_registry import artifact_cache, tiny

TRAININGS = {
    "safedir": {"training": {"trajectories": 8, "batch": 8, "steps": 25}},
    "esd_x": {"iterations": 12, "steps": 8, "batch": 4},
    "interpret_safe": {"training": {"images": 8, "steps": 4, "train_steps": 20, "batch": 8}},
}  # fmt: skip


def _weight_gradient(call: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    weight = weight.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(call(weight).square().mean(), weight)
    return gradient


def operations() -> dict[str, Callable[[], Tensor]]:
    """Return what methods compute with, at sizes of the embedded model."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    x, square, tall, images = random(300_000), random(512, 512), random(4096, 64), random(4, 64, 32, 32)
    linear, kernel, heads, texts = random(64, 64), random(64, 64, 3, 3), random(4, 8, 256, 32), random(16, 77, 64)
    index = torch.randint(1000, (5000,), generator=draw)
    values = random(5000, 64)
    return {
        "product of matrices": lambda: square @ square,
        "product that sums 4,096 rows": lambda: tall.T @ tall,
        "product, float64": lambda: square.double() @ square.double(),
        "convolution": lambda: F.conv2d(images, kernel, padding=1),
        "attention": lambda: F.scaled_dot_product_attention(heads, heads, heads),
        "sum of 300,000": lambda: x.sum(),
        "the same, in float64": lambda: x.double().sum(),
        "mean of squares": lambda: images.square().mean(),
        "norm, as for clipping": lambda: torch.linalg.vector_norm(x),
        "gradient of a linear layer": lambda: _weight_gradient(lambda w: tall @ w.T, linear),
        "gradient of a convolution": lambda: _weight_gradient(lambda w: F.conv2d(images, w, padding=1), kernel),
        "gradient of attention": lambda: _weight_gradient(lambda q: F.scaled_dot_product_attention(q, q, q), heads),
        "gradient of group norm": lambda: _weight_gradient(lambda w: F.group_norm(images, 8, w), torch.ones(64)),
        "gradient of layer norm": lambda: _weight_gradient(lambda w: F.layer_norm(texts, [64], w), torch.ones(64)),
        "gradient of an embedding": lambda: _weight_gradient(lambda w: F.embedding(index, w), torch.ones(1000, 64)),
        "adding by index": lambda: torch.zeros(1000, 64).index_add(0, index, values),
        "eigenvalues, float64": lambda: torch.linalg.eigvalsh(square.double() @ square.double().T),
        "solving, float64": lambda: torch.linalg.solve(square.double(), square.double()),
        "singular values": lambda: torch.linalg.svdvals(square),
    }


def parting(call: Callable[[], Tensor], counts: tuple[int, ...]) -> float:
    """Return the largest difference to one thread, relative to the largest value."""
    found = []
    for threads in (1, *counts):
        torch.set_num_threads(threads)
        found.append(call().detach().double())
    return max(float((other - found[0]).abs().max() / found[0].abs().max()) for other in found[1:])


def seconds(method: Method, threads: int) -> float:
    """Return what a training takes with so many threads, not held to one."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    method.prepare(micro_model(), [], lambda *_: None)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name, call in operations().items():
        difference = parting(call, (2, 3, 4))
        print(f"{name:32s} {f'{difference:.0e}' if difference else 'the same bits'}")
    for name, changes in TRAININGS.items():
        method = tiny(name, **changes)
        prepare_all(micro_model(), [method], artifact_cache())  # warms up
        found = {threads: min(seconds(method, threads) for _ in range(options.rounds))
                 for threads in (1, options.threads)}  # fmt: skip
        ratio = found[1] / found[options.threads]
        print(f"{name}: one thread takes {ratio:.2f} times as long as {options.threads} ({found[1]:.1f} s)")


if __name__ == "__main__":
    main()
