"""Feature extractors, distances, and what is said where their weights are not there."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.evaluators.extractor import FeatureExtractor, MapExtractor
from harness.evaluators.feature_distance import FeatureDistance, map_distance
from harness.evaluators.fid import Fid
from harness.evaluators.inception import FILE, SHA256, CleanFidInception
from harness.evaluators.lpips import Lpips
from harness.evaluators.scoring import score_requests
from harness.lib.targets import build
from harness.lib.weights import sha256_of
from harness.metrics.summary import EvaluatorScores, summarise_cell
from harness.records import ImageRow, ScoreItem, ScoreRow, Status
from tests.support.evaluator_fixtures import item, picture

CONF = Path(__file__).parents[2] / "conf" / "evaluator"


class Pixels(MapExtractor):
    name = "pixels"

    def identity(self):
        return {"weights_sha256": "none"}

    def setup(self, device):
        pass

    def features(self, images):
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)

    def feature_maps(self, images):
        maps = np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)
        return [maps, maps[:, :, ::2, ::2]]


class VectorsOnly(FeatureExtractor):
    name = "vectors"
    identity = Pixels.identity
    setup = Pixels.setup
    features = Pixels.features


PIXELS = {"_target_": f"{__name__}.Pixels"}


def test_fid_extracts_the_named_features():
    evaluator = Fid("fid", PIXELS)
    evaluator.setup("cpu")
    images = [picture(0), picture(1, (5, 9))]
    found = evaluator.features([item(0, images[0]), item(1, images[1])])
    np.testing.assert_allclose(found[1], images[1].mean(axis=(0, 1)), rtol=1e-6)
    assert evaluator.identity()["extractor"] == "pixels"
    assert evaluator.features_name == "pixels"
    with pytest.raises(TypeError, match="sets"):
        evaluator.score([item(0)])


def test_what_is_no_extractor_is_refused():
    with pytest.raises(IncompatibleError, match=r"does not derive from .*FeatureExtractor"):
        Fid("fid", {"_target_": f"{__name__}.Plain"})
    with pytest.raises(IncompatibleError, match="no feature maps"):
        FeatureDistance("d", {"_target_": f"{__name__}.VectorsOnly"})


class Plain:
    pass


def test_feature_distance_of_the_same_image_is_zero_and_grows():
    evaluator = FeatureDistance("d", PIXELS)
    evaluator.setup("cpu")
    image = picture(0)
    slightly = np.clip(image.astype(int) + np.random.default_rng(0).integers(-9, 9, image.shape), 0, 255)
    items = [item(0, image, baseline=image), item(1, slightly.astype(np.uint8), baseline=image),
             item(2, picture(7), baseline=image)]  # fmt: skip
    same, near, far = (row.value for row in evaluator.score(items))
    assert same == 0
    assert 0 < near < far <= 4
    alone = [evaluator.score([one])[0].value for one in items]
    assert alone == pytest.approx([same, near, far], abs=1e-9)


def test_map_distance_ignores_scale_and_reaches_its_bounds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 4, 4, 4)).astype(np.float32)
    assert map_distance(a, 7 * a) == pytest.approx(np.zeros(3), abs=1e-6)
    assert map_distance(a, -a) == pytest.approx(np.full(3, 4.0), abs=1e-5)
    assert map_distance(a, b) == pytest.approx(map_distance(b, a), rel=1e-9)


def test_feature_distance_is_lpips_without_weights():
    """The lpips package, its linear layers off, is the same sum; here on one layer of its formula."""
    import lpips
    import torch

    a, b = np.random.default_rng(1).normal(size=(2, 2, 5, 6, 6)).astype(np.float32)
    first, second = (lpips.normalize_tensor(torch.from_numpy(x)) for x in (a, b))
    expected = lpips.spatial_average(((first - second) ** 2).sum(dim=1, keepdim=True), keepdim=True).flatten()
    assert map_distance(a, b) == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.fixture(scope="module")
def random_lpips():
    import lpips

    made = Lpips("lpips")
    made._model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()  # random trunk: no network here
    return made


def test_lpips_of_a_pair_is_zero_for_the_same_image_only(random_lpips):
    image, other = picture(0, (64, 64)), picture(1, (64, 64))
    rows = random_lpips.score([item(0, image, baseline=image), item(1, image, baseline=other)])
    assert rows[0].value == pytest.approx(0, abs=1e-6)
    assert rows[1].value > 1e-4


def test_lpips_gets_the_range_that_its_package_expects(random_lpips):
    import lpips

    image = picture(0, (64, 64))
    np.testing.assert_allclose(random_lpips._tensor(image).numpy(), lpips.im2tensor(image).numpy(), atol=1e-6)


def test_lpips_preset_resizes_both_images(random_lpips):
    small = Lpips("lpips", size=64)
    small._model = random_lpips._model
    big, other = picture(0, (128, 128)), picture(1, (128, 128))

    def shrink(image):
        return np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))

    expected = random_lpips.score([item(0, shrink(big), baseline=shrink(other))])[0].value
    assert small.score([item(0, big, baseline=other)])[0].value == pytest.approx(expected, rel=1e-5)


def test_lpips_of_a_batch_is_that_of_each_pair_also_where_sizes_differ(random_lpips):
    sizes = [(64, 64), (96, 64), (64, 64), (64, 96), (96, 64)]
    items = [item(i, picture(i, size), baseline=picture(i + 50, size)) for i, size in enumerate(sizes)]
    calls = []
    model = random_lpips._model
    random_lpips._model = lambda a, b: calls.append(tuple(a.shape)) or model(a, b)
    together = [row.value for row in random_lpips.score(items)]
    random_lpips._model = model
    alone = [random_lpips.score([one])[0].value for one in items]
    assert together == pytest.approx(alone, rel=1e-4)
    assert len(set(together)) == 5
    assert sorted(calls) == [(1, 3, 96, 64), (2, 3, 64, 64), (2, 3, 64, 96)]


def test_an_lpips_pair_of_two_sizes_is_unknown_and_no_other(random_lpips, tmp_path):
    files = [tmp_path / f"{side}.png" for side in (64, 96)]
    for file, side in zip(files, (64, 96), strict=True):
        Image.fromarray(picture(side, (side, side))).save(file)
    small, large = map(str, files)
    pairs = [(small, small), (small, large), (large, large), (small, None)]
    requests = [ScoreItem(item(i).key, "", (), {}, a, b) for i, (a, b) in enumerate(pairs)]
    rows = score_requests(random_lpips, requests, 4)
    assert [row.value is None for row in rows] == [False, True, False, True]
    assert "64x64 against 96x96" in rows[1].error
    assert "no baseline" in rows[3].error


def test_lpips_mean_is_per_prompt_then_over_prompts(random_lpips):
    """As ESD's script: prompts have equally many images, so the mean over images is the mean of the prompts' means."""
    values = np.random.default_rng(0).random((5, 3))
    images = [ImageRow(f"p{i}", k, f"prompt {i}", (), 0, 7.5, "f", "s", 1, Status.OK, None, 1.0, 1, "w")
              for i in range(5) for k in range(3)]  # fmt: skip
    rows = [ScoreRow(image.prompt_id, image.repeat, value=values[int(image.prompt_id[1:]), image.repeat])
            for image in images]  # fmt: skip
    found = summarise_cell(images, {"lpips": EvaluatorScores.of(random_lpips, rows)}, None, 0).metrics["lpips"]
    assert found.value == pytest.approx(values.mean(axis=1).mean())
    assert not found.higher_is_better
    assert "on prompts for the removed concept, high is expected" in found.note


def test_lpips_presets_are_64_and_512_pixels():
    made = [build(yaml.safe_load((CONF / f"lpips_{name}.yaml").read_text())) for name in ("esd64", "native512")]
    assert [(one.net, one.size) for one in made] == [("alex", 64), ("alex", 512)]
    with pytest.raises(InvalidValueError, match="16"):
        Lpips("lpips", size=8)


def test_lpips_without_trunk_weights_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    evaluator = Lpips("lpips")
    assert "curl" in evaluator.missing()
    assert "download.pytorch.org" in evaluator.missing()
    with pytest.raises(MissingResourceError, match="trunk"):
        evaluator.setup("cpu")
    trunk = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    trunk.parent.mkdir(parents=True)
    trunk.write_bytes(b"cut short")
    assert "damaged" in evaluator.missing()


def test_lpips_net_must_exist():
    with pytest.raises(UnknownNameError, match="alex, squeeze, vgg"):
        Lpips("lpips", net="resnet")


@pytest.fixture
def random_inception(tmp_path):
    """A scripted stand-in of Inception's interface: 2048 random projections of a 4 x 4 thumbnail."""
    import torch


    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.project = torch.nn.Linear(48, 2048)

        def forward(self, x):
            return self.project(torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = Layers()

        def forward(self, x):
            return self.layers(x)

    torch.jit.script(Base()).save(str(tmp_path / FILE))
    return tmp_path


def test_inception_features_are_those_of_clean_fid(random_inception):
    from cleanfid import fid as cleanfid
    from cleanfid.inception_torchscript import InceptionV3W

    files = [random_inception / f"{i}.png" for i in range(3)]
    images = [picture(i, (70, 50)) for i in range(3)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    extractor = CleanFidInception(str(random_inception), sha256=sha256_of(random_inception / FILE))
    assert extractor.missing() is None
    extractor.setup("cpu")
    model = InceptionV3W(str(random_inception), download=False).eval()
    expected = cleanfid.get_files_features(
        [str(file) for file in files], model=model, num_workers=0, batch_size=2, device="cpu", mode="clean",
        verbose=False,
    )  # fmt: skip
    np.testing.assert_allclose(extractor.features(images), expected, rtol=1e-5, atol=1e-5)


def test_another_torchscript_file_than_the_published_inception_is_never_run(random_inception):
    """TorchScript is a program: what is not the file of the known hash is said to be missing, and not loaded."""
    extractor = CleanFidInception(str(random_inception))
    assert "different file" in extractor.missing()
    assert "f58cb9b6ec32" in extractor.missing()
    with pytest.raises(MissingResourceError, match="different file"):
        extractor.setup("cpu")
    (download,) = extractor.downloads()
    assert download.sha256 == SHA256


def test_inception_without_weights_says_how_to_get_them(tmp_path):
    evaluator = Fid("fid", {"_target_": "harness.evaluators.inception.CleanFidInception", "folder": str(tmp_path)})
    assert "curl -L -o" in evaluator.missing()
    with pytest.raises(MissingResourceError, match="Inception"):
        evaluator.setup("cpu")
    assert list(tmp_path.iterdir()) == []
