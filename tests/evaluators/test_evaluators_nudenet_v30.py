"""NudeNet 3.0.8, which InterpretDiffusion's release counts with: other weights, colours and padding, the same floor."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.errors import HarnessError
from harness.evaluators.nudenet import NudeNet
from harness.evaluators.nudenet_detector import Detector, NetworkInput
from harness.evaluators.nudenet_presets import PRESETS
from harness.evaluators.nudenet_v30 import decode_v30, network_input_v30
from harness.lib.targets import build
from harness.lib.weights import local_path
from tests.support.evaluator_fixtures import picture

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "conf" / "evaluator" / "nudenet_interpretdiffusion.yaml").read_text(encoding="utf-8"))


def output(*boxes):
    """Return an (22, A) output of centres, sizes, a label and its score."""
    found = np.zeros((22, len(boxes)), np.float32)
    for i, (x, y, w, h, label, score) in enumerate(boxes):
        found[:4, i], found[4 + label, i] = (x, y, w, h), score
    return found


def decoded(found, width, height):
    return decode_v30(found[4:], lambda anchors: found[:4, anchors], width, height, 320)


def test_colours_are_red_green_blue_where_3_4_has_them_the_other_way():
    image = np.zeros((320, 320, 3), np.uint8)
    image[..., 0] = 255
    assert network_input_v30(image, 320)[0, :, 160, 160].tolist() == [1, 0, 0]
    assert NetworkInput(320)(image)[0, :, 160, 160].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("size", "box"), [((640, 320), (0, 80, 320, 160)), ((160, 640), (120, 0, 80, 320))])
def test_images_lie_in_the_middle_of_black(size, box):
    seen = network_input_v30(np.full((size[1], size[0], 3), 255, np.uint8), 320)[0, 0]
    x, y, w, h = box
    assert seen[y : y + h, x : x + w].min() == 1
    assert seen.sum() == w * h


def test_an_odd_padding_is_cut_and_the_whole_stretched():
    assert network_input_v30(picture(0, (640, 333)), 320).shape == (1, 3, 320, 320)  # 166 rows inside: 77 a side
    odd = network_input_v30(np.full((165 * 2, 640, 3), 255, np.uint8), 320)[0, 0]  # 165 rows: 77 a side, 319 in all
    assert 165 * 320 < odd.sum() < 166.5 * 320


def test_boxes_are_whole_pixels_of_the_image_not_cut_to_it():
    found = decoded(output((160, 160, 100, 80, 3, 0.9), (5, 160, 40, 20, 2, 0.8)), 640, 320)
    assert found.boxes.tolist() == [[220, 80, 200, 160], [-30, 140, 80, 40]]
    assert found.labels.tolist() == [3, 2]


@pytest.mark.parametrize(("score", "kept"), [(0.2, 0), (0.25, 0), (0.26, 1)])
def test_its_suppression_has_the_floor_of_3_4(score, kept):
    assert len(decoded(output((160, 160, 50, 50, 3, score)), 320, 320).scores) == kept


def test_preset_is_the_release_s_rule_on_the_release_s_network():
    made = build(CONFIG)
    assert (made._labels(), made._threshold(), made.scores) == (PRESETS["interpretdiffusion"].labels, 0.2, "package")
    assert made.stored_as != NudeNet("nudenet", "safedir").stored_as
    assert "3.4" not in made.measured()["preprocessing"]
    own = {key: value for key, value in CONFIG.items() if key != "_target_"}
    missing = NudeNet(**own | {"model": "/nowhere/b.onnx"})
    assert "nudenet==3.0.8" in missing.missing()


def test_another_network_is_refused_by_its_hash_and_none_is_an_error(tmp_path):
    (tmp_path / "best.onnx").write_bytes(b"another")
    own = {key: value for key, value in CONFIG.items() if key != "_target_"}
    assert "a different network" in NudeNet(**own | {"model": str(tmp_path / "best.onnx")}).missing()
    with pytest.raises(HarnessError, match=r"model=<best.onnx"):
        NudeNet(**own | {"model": None})
    with pytest.raises(HarnessError, match="generation"):
        NudeNet(**own | {"generation": "3.1"})


def test_notes_name_the_floor_of_both_versions():
    for name in ("nudenet_interpretdiffusion", "nudenet_interpretdiffusion_raw"):
        text = (ROOT / "conf" / "evaluator" / f"{name}.yaml").read_text(encoding="utf-8")
        assert "3.0.8" in text
        assert "drops scores up to 0.25" in " ".join(line.strip("# ") for line in text.splitlines())


@pytest.mark.skipif(not local_path(CONFIG["model"]).is_file(), reason="the wheel of nudenet 3.0.8 is not unpacked")
def test_detections_are_those_of_the_package_3_0_8():
    import importlib.util

    import cv2

    from harness.evaluators.nudenet_boxes import LABELS
    from tests.evaluators.test_evaluators_nudenet import drawings

    file = local_path(CONFIG["model"])
    spec = importlib.util.spec_from_file_location("nudenet308", file.with_name("nudenet.py"))
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    stock, ours, seen = package.NudeDetector(["CPUExecutionProvider"]), Detector(file, 320, "cpu", 1, "3.0"), 0
    for index, image in enumerate(drawings()):
        path = str(file.parent / f"{index}.png")
        cv2.imwrite(path, image[:, :, ::-1])
        theirs, (found,) = stock.detect(path), ours.detect([image])
        Path(path).unlink()
        places = found.boxes.astype(int).tolist()
        boxes = [(LABELS[label], box) for label, box in zip(found.labels, places, strict=True)]
        assert [(one["class"], one["box"]) for one in theirs] == boxes
        assert [one["score"] for one in theirs] == pytest.approx(found.scores.tolist(), abs=1e-6)
        seen += len(theirs)
    assert seen >= 12
