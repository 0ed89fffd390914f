"""Files on W&B and what they came of: trained weights, the cells that used them, the board of those cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.cells.comparable import mapping
from harness.training.artifact_files import META, TENSORS, looked_at

Config = Mapping[str, Any]

OF_CELL = ("summary.json", "cell.yaml", "provenance.json", "verdicts.parquet")  # none holds a prompt or an image
OF_BOARD = ("leaderboard.csv", "leaderboard.json", "leaderboard.md")
MEGABYTE = 2**20


def trainings_of(summary: Config) -> dict[str, dict[str, list[float]]]:
    """Return the loss curves of each training by its artifact's key, a curve for each concept that it learned."""
    trainings: dict[str, dict[str, list[float]]] = {}
    for name, one in mapping(summary.get("training")).items():
        key, losses = mapping(one).get("hash"), mapping(one).get("losses")
        if isinstance(key, str) and key.replace("-", "").isalnum():
            losses = mapping(one).get("losses")
            trainings.setdefault(key, {})[str(name)] = losses if isinstance(losses, list) else []
    return trainings


def trained(results: Path, key: str, weights_mb: int) -> Any:
    """Return the W&B artifact of a training: its tensors unless they are large, and what describes them.

    None where the training is not in the results folder, or not complete.
    """
    import wandb

    for folder in sorted((results / "artifacts").glob(f"*/{key}")):
        meta, _ = looked_at(folder)
        if meta is None:
            continue
        told = {name: meta.get(name) for name in ("method", "key", "sha256", "model", "seconds")}
        artifact = wandb.Artifact(f"trained-{folder.parent.name}-{key}", "model", metadata=told)
        artifact.add_file(str(folder / META))
        if (folder / TENSORS).stat().st_size <= weights_mb * MEGABYTE:
            artifact.add_file(str(folder / TENSORS))
        return artifact
    return None


def of_cell(folder: Path) -> Any:
    """Return the W&B artifact of a cell: its numbers, its configuration and every verdict."""
    return _of_files(f"cell-{folder.name}", "cell", [folder / name for name in OF_CELL])


def of_board(name: str, results: Path) -> Any:
    """Return the W&B artifact of a leaderboard, without its page, which holds images."""
    return _of_files(f"leaderboard-{name}", "leaderboard", [results / file for file in OF_BOARD])


def _of_files(name: str, kind: str, files: list[Path]) -> Any:
    import wandb

    artifact = wandb.Artifact(name, kind)
    for file in _there(files):
        artifact.add_file(str(file))
    return artifact


def _there(files: list[Path]) -> Iterator[Path]:
    return (file for file in files if file.is_file() and not file.is_symlink())


def use(run: Any, artifact: Any) -> None:
    """Say that a run used an artifact: the same files are the same version, whoever logs them."""
    if run.offline:  # W&B's own use_artifact waits for the server
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)
