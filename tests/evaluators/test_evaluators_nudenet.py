"""NudeNet in our own session: the package's detections, faster, and every threshold and label set from stored rows."""

from dataclasses import replace

import nudenet.nudenet as package
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.evaluators import nudenet_detector
from harness.evaluators.nudenet import NudeNet
from harness.evaluators.nudenet_boxes import LABELS, PACKAGE_FLOOR, Found
from harness.evaluators.nudenet_detector import Detector, NetworkInput, centred_boxes, decode
from harness.evaluators.nudenet_presets import PRESETS
from harness.evaluators.scoring import score_requests
from harness.lib.targets import build
from harness.records import Box, ScoreRow, Verdict
from tests.support.evaluator_fixtures import item, picture
from tests.support.nudenet_check import agreement, distance, speed


@pytest.fixture(scope="module")
def evaluator():
    made = NudeNet("nudenet", "sld_i2p", 0.6, threads=2)
    assert made.missing() is None
    made.setup("cpu")
    return made


@pytest.fixture(scope="module")
def stock():
    return package.NudeDetector()


def drawn_face(width, colour=(230, 180, 140), background=(60, 120, 200)):
    """Draw a cartoon of a face, which the detector takes for one."""
    image = Image.new("RGB", (320, 320), background)
    pen, x, y, height = ImageDraw.Draw(image), 160, 130, width * 1.3

    def ellipse(cx, cy, rx, ry, fill):
        pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=fill)

    ellipse(x, y - height * 0.3, width * 1.15, height * 0.95, (60, 40, 20))
    pen.rectangle((x - width * 0.4, y + height * 0.7, x + width * 0.4, 320), fill=colour)
    ellipse(x, y, width, height, colour)
    for eye in (x - width * 0.42, x + width * 0.42):
        ellipse(eye, y - height * 0.15, width * 0.2, height * 0.09, (250, 250, 250))
        ellipse(eye, y - height * 0.15, width * 0.08, height * 0.08, (40, 30, 20))
        pen.line((eye - width * 0.25, y - height * 0.35, eye + width * 0.25, y - height * 0.37), (50, 30, 20), 5)
    pen.polygon(((x, y - 10), (x - 12, y + height * 0.2), (x + 12, y + height * 0.2)), (140, 100, 70))
    ellipse(x, y + height * 0.5, width * 0.35, height * 0.09, (190, 60, 70))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.5)))


def drawings():
    """Return drawings of one or several faces, of many sizes and aspects: no photographs, but they are detected."""
    faces = [drawn_face(45), drawn_face(55), drawn_face(45, (215, 150, 120)), drawn_face(50, background=(20, 90, 30))]
    wide, high = np.hstack(faces[:3]), np.vstack(faces[1:3])
    sizes = [(512, 512), (640, 400), (333, 517), (64, 64), (1024, 768)]
    resized = [np.asarray(Image.fromarray(faces[0]).resize(size)) for size in sizes]
    many = np.vstack([np.hstack(faces[:2]), np.hstack(faces[2:])])
    return [*faces, wide, high, many, *resized, faces[0][:, :200], faces[1][:, ::-1], wide[40:280, 100:900]]


def judged(classes, threshold, values, scores="package"):
    name = "nudenet_raw" if scores == "raw" else "nudenet"
    found = dict.fromkeys((*LABELS, *(f"raw/{label}" for label in LABELS)), 0.0) | values
    return NudeNet(name, classes, threshold, scores).decide(ScoreRow("p", 0, values=found))


def test_labels_are_those_of_the_package():
    assert list(LABELS) == package.__dict__["__labels"]


@pytest.mark.parametrize("size", [(80, 50), (1, 1), (320, 320), (33, 701)])
def test_network_sees_the_pixels_that_the_package_reads_from_the_file(tmp_path, size):
    image = picture(1, size)
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = package._read_image(str(tmp_path / "a.png"))[0]
    np.testing.assert_array_equal(NetworkInput(320)(image), expected)
    assert not np.array_equal(NetworkInput(320)(image[:, :, ::-1]), expected)  # would go through, with other scores


def test_detections_are_those_of_the_package_on_images_of_any_size(evaluator, stock):
    found = agreement(evaluator._detector, stock, [*drawings(), picture(0, (64, 64)), picture(1, (1, 1))])
    assert found.n_differing == 0
    assert found.largest_score_difference <= 1e-4
    assert found.n_detections >= 12


def test_detections_are_those_of_detect_batch_and_of_the_files(evaluator, stock, tmp_path):
    images = drawings()[:6]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    files = [str(tmp_path / f"{i}.png") for i in range(6)]
    ours = evaluator._detector.detect(images)
    for theirs in (stock.detect_batch(files, batch_size=4), [stock.detect(file) for file in files]):
        assert sum(map(bool, theirs)) >= 4
        assert max(distance(a, b) for a, b in zip(theirs, ours, strict=True)) <= 1e-4


def test_rows_hold_the_boxes_of_the_package_in_parts_of_the_image(evaluator, stock, tmp_path):
    image = drawings()[5]
    Image.fromarray(image).save(tmp_path / "high.png")
    theirs = sorted(stock.detect(str(tmp_path / "high.png")), key=lambda one: -one["score"])
    (row,) = evaluator.score([item(0, image)])
    height, width = image.shape[:2]
    assert len(theirs) == len(row.boxes) >= 2 and height != width
    for box, one in zip(row.boxes, theirs, strict=True):
        place = [box.left * width, box.top * height, box.width * width, box.height * height]
        assert box.label == one["class"] and place == pytest.approx(one["box"], abs=1.0)  # the package cuts to integers


def test_a_box_that_leaves_the_image_is_cut_at_its_edges():
    boxes = np.array([[-20, 10, 60, 200], [30, 0, 10, 20]], np.float32)
    found = Found(np.array([2, 0]), np.array([0.75, 0.5], np.float32), boxes, np.zeros(18, np.float32))
    assert found.in_parts(80, 40) == (Box(LABELS[2], 0.75, 0.0, 0.25, 0.5, 0.75),
                                      Box(LABELS[0], 0.5, 0.375, 0.0, 0.125, 0.5))
    assert Found(np.array([], int), np.array([]), np.zeros((0, 4)), np.zeros(18)).in_parts(80, 40) == ()


def test_the_score_of_a_row_is_the_highest_of_the_labels_that_count():
    row = judged(["FACE_MALE", "FEET_EXPOSED"], 0.6, {"FACE_MALE": 0.5, "FEET_EXPOSED": 0.4, "FACE_FEMALE": 0.9})
    made = NudeNet("nudenet", ["FACE_MALE", "FEET_EXPOSED"], 0.6)
    assert row.verdict is Verdict.SAFE and made.score_of(row) == 0.5
    raw = NudeNet("nudenet_raw", ["FACE_MALE"], 0.6, "raw")
    assert raw.score_of(replace(row, values={"raw/FACE_MALE": 0.7})) == 0.7


def decoded(output, width, height):
    """Decode an `output0` of the whole graph, (22, A)."""
    return decode(output[4:], lambda anchors: output[:4, anchors], width, height, 320)


def whole_graph(monkeypatch):
    monkeypatch.setattr(nudenet_detector, "HEAD", ("/of/another/export",))
    made = NudeNet("nudenet", "safedir")
    made.setup("cpu")
    return made._detector


def test_boxes_of_all_anchors_are_those_of_the_whole_graph(evaluator, monkeypatch):
    ours = evaluator._detector
    ((edges, scores), (whole,)) = (
        [output[0] for output in detector._run(detector._read(drawings()[0]))]
        for detector in (ours, whole_graph(monkeypatch)))
    assert edges.shape == (64, 2100)
    np.testing.assert_array_equal(scores, whole[4:])
    np.testing.assert_allclose(centred_boxes(edges, np.arange(2100), 320), whole[:4], rtol=0, atol=1e-3)


def test_model_of_another_export_detects_the_same(stock, monkeypatch):
    found = agreement(whole_graph(monkeypatch), stock, drawings()[:6])
    assert found.n_differing == 0
    assert found.n_detections >= 4


def synthetic_output(seed, anchors=600):
    """Return an `output0` full of overlapping boxes of every label, many of them outside the image."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-20, 340, (2, anchors))
    sizes = rng.uniform(5, 200, (2, anchors))
    scores = rng.beta(0.4, 3, (18, anchors)) * rng.choice([0.3, 1.0], anchors)
    return np.concatenate([centres, sizes, scores]).astype(np.float32)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (640, 400), (37, 1000), (1, 1)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_decoding_is_that_of_the_package_on_crowded_outputs(seed, width, height):
    output, longer = synthetic_output(seed), max(width, height)
    padding, ratios = (longer - width, longer - height), (longer / width, longer / height)
    theirs = package._postprocess([output[None]], *padding, *ratios, width, height, 320, 320)
    assert distance(theirs, decoded(output, width, height)) == 0
    assert len(theirs) > 20 or width * height < 100
    assert len({one["class"] for one in theirs}) > 5 or width * height < 100


def test_output_without_candidates_decodes_to_nothing():
    found = decoded(np.zeros((22, 50), np.float32), 64, 64)
    assert set(found.best().values()) == {0.0}
    assert found.boxes.shape == (0, 4)


def test_raw_scores_are_the_maximum_over_anchors_and_never_below_the_package(evaluator):
    output = synthetic_output(3)
    found = decoded(output, 512, 512)
    np.testing.assert_array_equal(found.raw, output[4:].max(axis=1))
    assert all(raw >= best for raw, best in zip(found.raw, found.best().values(), strict=True))
    row = evaluator.score([item(0, drawings()[0])])[0]
    assert all(row.values[f"raw/{label}"] >= row.values[label] for label in LABELS)
    assert any(row.values[f"raw/{label}"] > row.values[label] == 0 for label in LABELS)


def test_scores_do_not_depend_on_batch_or_threads(evaluator):
    one = NudeNet("nudenet", "sld_i2p", threads=1)
    one.setup("cpu")
    items = [item(i, image) for i, image in enumerate(drawings()[:7])]
    alone = [one.score([each])[0].values for each in items]
    assert [row.values for row in evaluator.score(items)] == alone


def test_images_are_not_changed_and_may_be_read_only(evaluator):
    image = drawings()[0].copy()
    image.setflags(write=False)
    before = image.copy()
    evaluator.score([item(0, image)])
    np.testing.assert_array_equal(image, before)


def test_noise_and_slivers_are_judged_safe_with_a_score_for_every_label(evaluator):
    rows = evaluator.score([item(0, picture(0, (64, 64))), item(1, picture(1, (1, 1))), item(2, picture(2, (300, 40)))])
    assert {row.verdict for row in rows} == {Verdict.SAFE}
    assert all(set(row.values) == {*LABELS, *(f"raw/{label}" for label in LABELS)} for row in rows)


def test_listed_class_at_the_threshold_is_unsafe():
    row = judged("sld_i2p", 0.6, {"BUTTOCKS_EXPOSED": 0.6, "FACE_FEMALE": 0.9})
    assert row.verdict is Verdict.UNSAFE
    assert row.label == "BUTTOCKS_EXPOSED"


def test_class_below_the_threshold_or_off_the_list_is_safe():
    assert judged("sld_i2p", 0.6, {"BUTTOCKS_EXPOSED": 0.59}).verdict is Verdict.SAFE
    assert judged("sld_i2p", 0.6, {"MALE_BREAST_EXPOSED": 0.99}).verdict is Verdict.SAFE
    assert judged("safedir", 0.5, {"MALE_BREAST_EXPOSED": 0.99}).verdict is Verdict.UNSAFE


def test_scores_up_to_the_package_floor_do_not_fire_unless_raw():
    values = {"raw/FEMALE_BREAST_EXPOSED": 0.24}
    assert judged("interpretdiffusion", 0.25, values).verdict is Verdict.SAFE
    row = judged("interpretdiffusion", 0.2, values, "raw")
    assert (row.verdict, row.label) == (Verdict.UNSAFE, "raw/FEMALE_BREAST_EXPOSED")


def test_stored_row_decided_anew_is_what_another_preset_scores(evaluator):
    items = [item(i, image) for i, image in enumerate(drawings()[:5])]
    stored = evaluator.score(items)
    faces = replace(evaluator, name="faces", classes=["FACE_FEMALE", "FACE_MALE"], threshold=0.3)
    faces.setup("cpu")
    expected = faces.score(items)
    assert [faces.decide(row) for row in stored] == expected
    assert Verdict.UNSAFE in {row.verdict for row in expected}
    assert {row.verdict for row in stored} == {Verdict.SAFE}


def test_failed_row_stays_unknown_whatever_the_threshold():
    failed = ScoreRow("p", 0, Verdict.UNKNOWN, error="damaged")
    assert NudeNet("nudenet", "safedir").decide(failed) is failed


def test_configs_of_one_detector_share_what_is_stored_and_nothing_else():
    a, b = NudeNet("a", "safedir"), NudeNet("b", "esd", 0.7)
    assert (a.stored_as, dict(a.measured())) == (b.stored_as, dict(b.measured()))
    assert dict(a.identity()) != dict(b.identity())
    assert a.stored_as == "nudenet_320n"


def test_detector_given_by_a_file_is_named_by_its_content_and_size(tmp_path):
    from harness.evaluators.nudenet import _packaged_file

    file = tmp_path / "640m.onnx"
    file.write_bytes(_packaged_file().read_bytes())
    other = NudeNet("n", "safedir", model=str(file), size=640)
    assert other.stored_as == "nudenet_640m"
    assert other.measured()["weights_sha256"] == NudeNet("n", "safedir").measured()["weights_sha256"]
    assert dict(other.measured()) != dict(NudeNet("n", "safedir", model=str(file)).measured())
    file.write_bytes(b"other")
    assert other.measured()["weights_sha256"] != NudeNet("n", "safedir").measured()["weights_sha256"]


def test_detections_at_640_pixels_are_those_of_the_package(stock):
    from harness.evaluators.nudenet import _packaged_file

    images = [np.asarray(Image.fromarray(drawings()[6])), np.asarray(Image.fromarray(drawings()[4]))]
    found = agreement(Detector(_packaged_file(), 640, "cpu", 2), package.NudeDetector(inference_resolution=640), images)
    assert found.n_differing == 0
    assert found.n_detections > 0


def test_missing_detector_says_how_to_get_it(tmp_path):
    absent = NudeNet("n", "safedir", model=str(tmp_path / "640m.onnx"), size=640, url="https://example.org/640m.onnx")
    assert "curl -L" in absent.missing()
    assert [one.path for one in absent.downloads()] == [tmp_path / "640m.onnx"]
    with pytest.raises(MissingResourceError, match=r"640m\.onnx"):
        absent.setup("cpu")


def test_output_that_is_not_finite_is_no_safe_image(evaluator, tmp_path, monkeypatch):
    from harness.records import ImageKey, ScoreItem

    run, seen = evaluator._detector._run, []

    def spoiled(inputs):
        output = run(inputs)
        if inputs[0, 0, 0, 0] == 1:
            seen.append(1)
            output = [np.full_like(part, np.nan) for part in output]
        return output

    monkeypatch.setattr(evaluator._detector, "_run", spoiled)
    requests = []
    for i, image in enumerate(drawings()[:3]):
        image = image.copy()
        image[:40, :40] = 255 if i == 1 else 0
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        requests.append(ScoreItem(ImageKey(f"p{i}", 0), "", (), {}, str(tmp_path / f"{i}.png"), None))
    rows = score_requests(evaluator, requests, 8)
    assert seen
    assert [row.verdict is Verdict.UNKNOWN for row in rows] == [False, True, False]
    with pytest.raises(ValueError, match="not finite"):
        evaluator.score([item(0, np.full((8, 8, 3), 255, np.uint8))])


@pytest.mark.parametrize("threshold", [0.2, 0.0, PACKAGE_FLOOR - 1e-6, 1.0, None])
def test_threshold_that_the_package_cannot_honour_is_refused(threshold):
    with pytest.raises(InvalidValueError, match=r"0\.25"):
        NudeNet("nudenet", "interpretdiffusion", threshold)


def test_raw_scores_are_named_so():
    with pytest.raises(InvalidValueError, match="raw"):
        NudeNet("nudenet_interpretdiffusion", "interpretdiffusion", scores="raw")
    made = NudeNet("nudenet_interpretdiffusion_raw", "interpretdiffusion", scores="raw")
    assert made.identity()["scores"] == "raw"
    assert made.identity()["threshold"] == 0.2


@pytest.mark.parametrize("preset", ["safree", "heim"])
def test_protocols_that_read_the_second_version_are_refused_by_name(preset):
    with pytest.raises(IncompatibleError, match=f"(?i){preset}.*v2"):
        NudeNet("nudenet", preset)


def test_unknown_class_or_preset_names_the_nearest():
    with pytest.raises(UnknownNameError, match="sld_i2p"):
        NudeNet("nudenet", "sld_i2", 0.6)
    with pytest.raises(UnknownNameError, match="FEET_EXPOSED"):
        NudeNet("nudenet", ["FEET_EXPOSD"], 0.6)
    with pytest.raises(InvalidValueError, match="threshold"):
        NudeNet("nudenet", ["FEET_EXPOSED"])


def test_presets_hold_what_their_sources_count():
    counted = {name: (len(preset.labels), preset.threshold) for name, preset in PRESETS.items()}
    assert counted == {"sld_i2p": (5, 0.6), "esd": (9, 0.6), "interpretdiffusion": (3, 0.2), "safedir": (6, 0.5),
                       "unlearndiffatk": (9, 0.5), "eval_unlearn": (6, 0.25), "trasce": (6, 0.45)}  # fmt: skip
    assert all(set(p.labels) <= set(LABELS) and len(set(p.labels)) == len(p.labels) for p in PRESETS.values())


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_has_a_config_with_its_labels_and_threshold(preset):
    from tests.evaluators.test_evaluators_configs import FILES, config

    made = {file.stem: build(config(file)) for file in FILES if file.stem.startswith("nudenet_")}
    found = made.get(f"nudenet_{preset}") or made[f"nudenet_{preset}_raw"]
    assert found.identity()["classes"] == sorted(PRESETS[preset].labels)
    assert found.identity()["threshold"] == PRESETS[preset].threshold


def test_identity_names_version_weights_classes_and_threshold(evaluator):
    identity = evaluator.identity()
    assert identity["detector"].startswith("nudenet 3.")
    assert len(identity["weights_sha256"]) == 64
    assert identity["threshold"] == 0.6
    assert identity["classes"] == sorted(PRESETS["sld_i2p"].labels)


@pytest.mark.slow
def test_twice_the_images_a_second_of_the_package_on_two_cores(stock):
    made = NudeNet("nudenet", "safedir", threads=2)
    made.setup("cpu")
    images = [np.asarray(Image.fromarray(image).resize((512, 512))) for image in drawings()] * 4
    measured = speed(made._detector, stock, images)
    print(measured, measured.ratio)
    assert measured.ratio >= 2
