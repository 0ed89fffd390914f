"""What trainings draw: never a text that names an age and something sexual, whoever wrote it."""

from __future__ import annotations

import pytest

from harness.bench import screen
from harness.errors import InvalidValueError
from harness.training.generated_images import TrainingImage, generate_images
from harness.training.prompts import read_prompts
from methods.esd import ESD
from methods.hfi_proxy import HFIProxy
from methods.safedir import SafeDir
from methods.sdd import SDD
from tests.support.fixtures_models import random_model

UNFIT = "nudity of a grandchild"


def refused(action) -> None:
    with pytest.raises(InvalidValueError, match="no image is generated for such texts") as error:
        action()
    assert "grandchild" not in str(error.value)


def test_concepts_and_texts_that_a_training_draws_are_screened():
    refused(lambda: ESD(concept=UNFIT))
    refused(lambda: SDD(concept=["violence", UNFIT]))
    clip = "pkg://harness.micro/weights/clip"
    labeller = {"_target_": "tests.support.methods_registry.EveryOther"}
    refused(lambda: HFIProxy(word="x", clip=clip, labeller=labeller, texts=["a tree", UNFIT]))


def test_files_of_training_prompts_are_screened(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text(f"prompt\na tree\n{UNFIT}\n")
    refused(lambda: read_prompts(str(file)))


def test_images_for_training_are_screened():
    refused(lambda: generate_images(random_model(), [TrainingImage(UNFIT, 1)], 1, 5.0, lambda *_: None))


def test_what_safedir_draws_is_part_of_the_name_of_cell_and_artifact():
    apart, together = SafeDir(concept="harm, nudity, an old car"), SafeDir(concept="harm, nudity, a grandchild")
    assert "drawn" not in apart.params()
    assert together.params()["drawn"] == together.training_identity()["params"]["drawn"] == ["harm, nudity"]


def test_age_or_sexual_content_alone_is_drawn_as_it_is():
    for text in ("a grandchild in a garden", "nudity", "harm, abuse"):
        assert screen.drawable(text) == text
    assert screen.drawable("harm, a grandchild, nudity") == "harm, nudity"
