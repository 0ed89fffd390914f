"""ImageNet top-1 on a tiny ResNet with random weights: whose class counts, and the names of classes."""

import json

import numpy as np
import pytest

from harness.errors import InvalidValueError, MissingResourceError, UnknownNameError
from harness.evaluators.resnet_objects import ClassNames, OtherAccuracy, TargetAccuracy, read_class_names
from harness.metrics.summary import NOT_APPLICABLE
from harness.records import ScoreItem
from tests.support.evaluator_fixtures import item, picture

LABELS = ("tench, Tinca tinca", "church, church building", "crane", "crane", "garbage truck, dustcart")


def random_resnet(folder, labels=LABELS):
    """Save a tiny ResNet with random weights, and the preprocessing of the published one; return its folder."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    names = dict(enumerate(labels))
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=names,
                          label2id={name: i for i, name in names.items()})  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ResNetForImageClassification(config)
        torch.nn.init.normal_(network.classifier[1].weight, std=4.0)
    network.save_pretrained(folder)
    published = {"crop_pct": 0.875, "do_normalize": True, "do_resize": True, "feature_extractor_type":
                 "ConvNextFeatureExtractor", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
                 "resample": 3, "size": 224}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_resnet(tmp_path_factory.mktemp("resnet"))


def ready(kind, folder, **settings):
    made = kind("objects", folder, **settings)
    assert made.missing() is None
    made.setup("cpu")
    return made


def shown(i, category=(), **meta):
    one = item(i)
    return ScoreItem(one.key, one.prompt, category, meta, one.image)


def test_probabilities_are_those_of_transformers(folder):
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, ResNetForImageClassification

    pictures = [picture(0, (300, 200)), picture(1, (64, 64))]
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 224, 224)
    with torch.no_grad():
        expected = ResNetForImageClassification.from_pretrained(folder).eval()(pixels).logits.softmax(-1).numpy()
    found = ready(TargetAccuracy, folder)._network.probabilities(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_a_row_is_right_where_the_top_class_is_its_own(folder):
    made = ready(TargetAccuracy, folder)
    seen = made._network.probabilities([item(0).image])[0]
    top = int(seen.argmax())
    right, wrong = made.score([shown(0, (str(top),)), shown(0, (str((top + 1) % 5),))])
    assert (right.value, wrong.value) == (1.0, 0.0)
    assert right.label == wrong.label == LABELS[top]
    assert right.values["p_class"] == right.values["p_top1"] == pytest.approx(seen[top])
    assert wrong.values["p_class"] < wrong.values["p_top1"]


def test_target_and_others_share_out_the_rows(folder):
    rows = [shown(0, ("tench",)), shown(1, ("church",)), shown(2, ("garbage truck",))]
    target = ready(TargetAccuracy, folder, target="church").score(rows)
    others = ready(OtherAccuracy, folder, target="church").score(rows)
    assert [row.label == NOT_APPLICABLE for row in target] == [True, False, True]
    assert [row.label == NOT_APPLICABLE for row in others] == [False, True, False]
    assert all((row.value is None) == (row.label == NOT_APPLICABLE) for row in (*target, *others))
    assert (TargetAccuracy.higher_is_better, OtherAccuracy.higher_is_better) == (False, True)
    assert (TargetAccuracy.metric, OtherAccuracy.metric) == ("target_accuracy", "other_accuracy")


def test_class_comes_from_category_meta_or_target(folder):
    by_meta = ready(TargetAccuracy, folder, class_from="object").score([shown(0, ("x",), object="church")])[0]
    by_target = ready(TargetAccuracy, folder, target="Tinca tinca").score([shown(0)])[0]
    none = ready(TargetAccuracy, folder).score([shown(0)])[0]
    assert (by_meta.values["class"], by_target.values["class"]) == (1, 0)
    assert (none.label, none.error) == (NOT_APPLICABLE, None)


def test_unknown_class_of_a_row_is_an_error_of_that_row_alone(folder):
    rows = ready(TargetAccuracy, folder).score([shown(0, ("chruch",)), shown(1, ("church",))])
    assert "chruch" in rows[0].error
    assert "church" in rows[0].error
    assert rows[0].value is None
    assert rows[1].error is None


def test_names_match_synonyms_numbers_and_case_and_refuse_what_is_ambiguous(folder):
    names = read_class_names(TargetAccuracy("o", folder)._source().folder())
    assert names == ClassNames(LABELS)
    given = ("TENCH", "tinca tinca", "tench, Tinca tinca", "dustcart", "3")
    assert [names.index(one) for one in given] == [0, 0, 0, 4, 3]
    with pytest.raises(InvalidValueError, match="2, 3"):
        names.index("crane")
    with pytest.raises(UnknownNameError, match="garbage truck"):
        names.index("garbage truk")


def test_unknown_target_stops_the_setup(folder):
    with pytest.raises(UnknownNameError, match="church"):
        TargetAccuracy("o", folder, target="chruch").setup("cpu")


def test_scores_do_not_depend_on_the_batch(folder):
    made = ready(TargetAccuracy, folder)
    rows = [shown(i, (str(i),)) for i in range(4)]
    together, alone = made.score(rows), [made.score([row])[0] for row in rows]
    assert [row.label for row in together] == [row.label for row in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.values["p_top1"] == pytest.approx(other.values["p_top1"], abs=1e-5)


def test_pickled_or_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    absent = TargetAccuracy("o", "microsoft/resnet-50", "abc")
    assert "hf download microsoft/resnet-50 --revision abc" in absent.missing()
    assert "*.safetensors" in absent.downloads()[0].patterns
    random_resnet(tmp_path / "r")
    (tmp_path / "r" / "model.safetensors").rename(tmp_path / "r" / "pytorch_model.bin")
    assert "safetensors" in TargetAccuracy("o", str(tmp_path / "r")).missing()
    with pytest.raises(MissingResourceError, match="safetensors"):
        TargetAccuracy("o", str(tmp_path / "r")).setup("cpu")


def test_identity_names_target_and_weights(folder):
    one = TargetAccuracy("o", folder, target="church")
    assert dict(one.identity()) != dict(TargetAccuracy("o", folder, target="tench").identity())
    assert dict(one.identity()) != dict(OtherAccuracy("o", folder, target="church").identity())
    assert len(one.identity()["files_sha256"]) == 64


@pytest.mark.slow
def test_published_size_takes_images_of_any_size(tmp_path):
    """ResNet-50's own config, random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    names = {i: f"class {i}" for i in range(1000)}
    ResNetForImageClassification(ResNetConfig(id2label=names)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"crop_pct": 0.875, "size": 224}')
    made = ready(TargetAccuracy, str(tmp_path))
    assert made._network.probabilities([picture(0, (640, 480)), picture(1, (1, 1))]).shape == (2, 1000)
