"""Feature extractors, distances, and what is said where their weights are not there."""

import numpy as np
import pytest
from evaluator_fixtures import item, picture
from PIL import Image

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError
from harness.evaluators.extractor import FeatureExtractor, MapExtractor
from harness.evaluators.feature_distance import FeatureDistance, map_distance
from harness.evaluators.fid import Fid
from harness.evaluators.inception import FILE, CleanFidInception
from harness.evaluators.lpips import Lpips


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
    with pytest.raises(IncompatibleError, match="not a feature extractor"):
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
    torch, lpips = pytest.importorskip("torch"), pytest.importorskip("lpips")
    a, b = np.random.default_rng(1).normal(size=(2, 2, 5, 6, 6)).astype(np.float32)
    first, second = (lpips.normalize_tensor(torch.from_numpy(x)) for x in (a, b))
    expected = lpips.spatial_average(((first - second) ** 2).sum(dim=1, keepdim=True), keepdim=True).flatten()
    assert map_distance(a, b) == pytest.approx(expected.numpy(), rel=1e-5)


@pytest.fixture(scope="module")
def random_lpips():
    lpips = pytest.importorskip("lpips")
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
    with pytest.raises(InvalidValueError, match="alex, vgg, squeeze"):
        Lpips("lpips", net="resnet")


@pytest.fixture
def random_inception(tmp_path):
    """A scripted stand-in of Inception's interface: 2048 random projections of a 4 x 4 thumbnail."""
    torch = pytest.importorskip("torch")

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
    cleanfid = pytest.importorskip("cleanfid.fid")
    from cleanfid.inception_torchscript import InceptionV3W

    files = [random_inception / f"{i}.png" for i in range(3)]
    images = [picture(i, (70, 50)) for i in range(3)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    extractor = CleanFidInception(str(random_inception))
    assert extractor.missing() is None
    extractor.setup("cpu")
    model = InceptionV3W(str(random_inception), download=False).eval()
    expected = cleanfid.get_files_features(
        [str(file) for file in files], model=model, num_workers=0, batch_size=2, device="cpu", mode="clean",
        verbose=False,
    )  # fmt: skip
    np.testing.assert_allclose(extractor.features(images), expected, rtol=1e-5, atol=1e-5)


def test_inception_without_weights_says_how_to_get_them(tmp_path):
    evaluator = Fid("fid", {"_target_": "harness.evaluators.inception.CleanFidInception", "folder": str(tmp_path)})
    assert "curl -L -o" in evaluator.missing()
    with pytest.raises(MissingResourceError, match="Inception"):
        evaluator.setup("cpu")
    assert list(tmp_path.iterdir()) == []
