"""Directions that authors publish: read without running anything, checked against the model, used as they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.errors import HarnessError, IncompatibleError, InvalidValueError, UnknownNameError
from harness.sampling.session import attached
from methods.interpret import Interpret
from methods.interpret_direction import bottleneck_shape
from methods.safedir import SafeDir
from tests.method_parity import agree
from tests.sampling.test_denoiser import pixels
from tests.support.fixtures_models import make_items, make_settings, random_config, random_model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def released(path: Path, width: int = 32, length: int = 77, seed: int = 0) -> str:
    """Write a direction as SafeDir's release saves its module: torch.save of a state dict."""
    torch.save({"b": noise(1, length, 1, seed=seed), "a": noise(1, 1, width, seed=seed + 9)}, path)
    return str(path)


def draw(method: Any, model: Any = None, artifact: Any = None) -> np.ndarray:
    with attached(model or random_model(), [method], [artifact]) as session:
        return pixels(session.generate(make_items(3), make_settings(5)))


def test_a_released_direction_moves_the_prompt_as_its_product_does(tmp_path):
    file = released(tmp_path / "safe-direction.pth")
    content = torch.load(file, weights_only=True)
    model, items = random_model(), make_items(3)
    d = 0.5 * (content["b"] @ content["a"])[0]
    method = SafeDir("nudity", checkpoint=file, strength=0.5, start=1)
    assert not method.trains and method.missing() is None
    from tests.sampling.test_denoiser import stock

    expected = stock(model, items, 5, 32, prompt_embeds=model.encode([item.prompt for item in items]) + d,
                     negative_prompt_embeds=model.encode([""] * 3))
    agree("safedir_file", np.abs(draw(method).astype(int) - expected).max(), 0)


def test_a_cell_is_named_by_the_files_content_and_not_by_what_trains_nothing(tmp_path):
    one = SafeDir("nudity", checkpoint=released(tmp_path / "one.pth"))
    shutil.copy(tmp_path / "one.pth", tmp_path / "two.pth")
    same = SafeDir("harm", checkpoint=str(tmp_path / "two.pth"), training={"eta": 1.0})
    other = SafeDir("nudity", checkpoint=released(tmp_path / "three.pth", seed=5))
    assert one.identity() == same.identity() != other.identity()
    assert "checkpoint" not in SafeDir("nudity").identity()["params"]


def test_fair_directions_of_the_release_are_one_file_each(tmp_path):
    files = [released(tmp_path / f"{n}.pth", seed=n) for n in range(3)]
    method = SafeDir("a face", checkpoint=files, combine="draw", start=1)
    alone = [draw(SafeDir("a face", checkpoint=file, start=1)) for file in files]
    drawn = draw(method)
    for index, item in enumerate(make_items(3)):
        assert np.array_equal(drawn[index], alone[method.draw(item)][index])


@pytest.mark.parametrize(("content", "said"), [
    ({"b": torch.zeros(1, 77, 1)}, "not a SafeDir direction: it holds b"),
    ({"b": torch.zeros(1, 77, 2), "a": torch.zeros(1, 1, 32)}, "not a SafeDir direction: b"),
    ({"b": torch.zeros(77), "a": torch.zeros(1, 1, 32)}, "b has shape"),
    ({"b": torch.full((1, 77, 1), torch.nan), "a": torch.zeros(1, 1, 32)}, "non-finite"),
    ([1, 2], "holds a list"),
    ({"b": 3, "a": "x"}, "not a SafeDir direction"),
])  # fmt: skip
def test_what_is_no_direction_is_one_line(content, said, tmp_path):
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(HarnessError, match=said):
        SafeDir("x", checkpoint=str(tmp_path / "bad.pth")).check(random_config(), 5.0)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"b": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidValueError, match="more than tensors"):
        SafeDir("x", checkpoint=str(tmp_path / "evil.pth")).check(random_config(), 5.0)


def test_a_direction_of_another_text_encoder_is_refused_in_the_plan(tmp_path):
    wide = SafeDir("x", checkpoint=released(tmp_path / "wide.pth", width=768))
    with pytest.raises(IncompatibleError, match="77 x 768 numbers, but text embeddings of this model have 77 x 32"):
        wide.check(random_config(), 5.0)
    gone = SafeDir("x", checkpoint=str(tmp_path / "gone.pth"))
    assert "is missing" in str(gone.missing())


def test_sdxl_takes_a_direction_of_its_first_encoder(tmp_path):
    from tests.support.fixtures_models import random_xl_config, random_xl_model

    model = random_xl_model()
    width = model.embed("").shape[1]
    first = model.pipe.text_encoder.config.hidden_size
    assert first < width
    file = released(tmp_path / "first.pth", width=first)
    with pytest.raises(IncompatibleError, match=r"on_model=transfer"):
        SafeDir("x", checkpoint=file).check(random_xl_config(), 5.0)
    method = SafeDir("x", checkpoint=file, on_model="transfer", start=1)
    method.check(random_xl_config(), 5.0)
    with method.attach(model, None):
        (d,) = [method.__dict__["_directions"][f"{name}.0"] for name in "a"]
    assert d.shape == (1, width) and not d[:, first:].any() and d[:, :first].any()


def table(path: Path, names: dict[str, int] | None, count: int = 3, key: str = "controlnet.fc1.weight") -> str:
    """Write InterpretDiffusion's checkpoint: one linear layer, a column a concept; its names beside it."""
    size = int(np.prod(bottleneck_shape(random_model())))
    torch.save({key: 3 * noise(size, count)}, path)
    if names is not None:
        (path.parent / "concept_dict.json").write_text(json.dumps(names))
    return str(path)


def test_a_published_table_gives_each_direction_its_column(tmp_path):
    file = table(tmp_path / "unet.pth", {"female": 0, "male": 1, "antisexual": 2})
    vectors = torch.load(file, weights_only=True)["controlnet.fc1.weight"]
    shape = bottleneck_shape(random_model())
    method = Interpret([{"name": "antisexual"}, {"name": "male"}], checkpoint=file, strength=[1.0, 0.5])
    assert not method.trains and method.missing() is None
    save_file({f"h.{n}": vectors[:, column].reshape(shape).contiguous() for n, column in enumerate((2, 1))},
              tmp_path / "h.safetensors")
    from safetensors.torch import load_file

    from harness.training.artifacts import StoredArtifact

    trained = Interpret([{"name": "x", "positive": "a"}, {"name": "y", "positive": "b"}], strength=[1.0, 0.5])
    stored = StoredArtifact("key", load_file(tmp_path / "h.safetensors"),
                            {"base": {"weights": random_model().fingerprint}})
    assert np.array_equal(draw(method), draw(trained, artifact=stored))
    assert not np.array_equal(draw(method), draw(Interpret([{"name": "female"}], checkpoint=file)))


def test_columns_can_be_named_on_the_command_line(tmp_path):
    file = table(tmp_path / "unet.pth", None, key="fc1.weight")
    with pytest.raises(InvalidValueError, match=r"does not name its columns.*method\.columns"):
        Interpret([{"name": "a"}], checkpoint=file).check(random_config(), 5.0)
    Interpret([{"name": "a"}], checkpoint=file, columns={"a": 2}).check(random_config(), 5.0)
    with pytest.raises(InvalidValueError, match="column 7 of a is not one of its 3"):
        Interpret([{"name": "a"}], checkpoint=file, columns={"a": 7}).check(random_config(), 5.0)
    with pytest.raises(InvalidValueError, match=r"method\.columns"):
        Interpret([{"name": "a"}], checkpoint=file, columns={"a": "two"})
    with pytest.raises(UnknownNameError, match="female"):
        Interpret([{"name": "femal"}], checkpoint=table(tmp_path / "t.pth", {"female": 0})).check(random_config(), 5.0)


def test_a_table_of_another_unet_is_refused(tmp_path):
    torch.save({"fc1.weight": torch.zeros(1001, 2)}, tmp_path / "unet.pth")
    with pytest.raises(InvalidValueError, match="1001 values, but the bottleneck has"):
        Interpret([{"name": "a"}], checkpoint=str(tmp_path / "unet.pth"), columns={"a": 0}).check(random_config(), 5.0)
