"""UCE: the released solution, its normal equations, its limits, and its undo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.sampling.session import attached
from harness.training.closed_form import deltas, edit_matrix, kept_tokens, paired_tokens, projections, subject_index
from methods.uce import UCE, expanded
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import micro_model, random_model
from tests.support.methods_common import in_half_precision, scheduled, stored, trained

CONCEPTS = ("a skull", "a burning bomb", "flame")
KEPT = ("a doctor in a field", "tree")


def uce(**changes: Any) -> UCE:
    return UCE(**({"erase": CONCEPTS, "preserve": KEPT} | changes))


def released(weight: torch.Tensor, method: UCE) -> torch.Tensor:
    """Solve as the released script does, term by term, in float64."""
    model, tokenizer = random_model(), random_model().pipe.tokenizer

    def embedding(text: str) -> torch.Tensor:
        mask = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                         return_tensors="pt")["attention_mask"]
        return model.embed(text)[int(mask.sum()) - 2].double()[:, None]

    w_old = weight.double()
    mat1, mat2 = method.lam * w_old, method.lam * torch.eye(w_old.shape[1], dtype=torch.float64)
    pairs = [(c, g, method.erase_scale) for c, g in method.pairs]
    for text, guide, scale in pairs + [(p, p, method.preserve_scale) for p in method.preserve]:
        c, v = embedding(text), w_old @ embedding(guide)
        mat1, mat2 = mat1 + scale * v @ c.T, mat2 + scale * c @ c.T
    return mat1 @ torch.inverse(mat2)


@pytest.mark.parametrize("change", [{}, {"guides": "tree"}, {"guides": ["", "star", "a ball"], "lam": 0.01},
                                    {"erase_scale": 2.0, "preserve_scale": 0.1}, {"expand_prompts": True},
                                    {"preserve": ()}, {"concept_type": "art", "expand_prompts": True}])  # fmt: skip
def test_the_solution_is_that_of_the_released_script(change):
    method = uce(**change)
    weights, changes = projections(random_model().denoiser), trained(method).tensors
    assert sorted(changes) == sorted(weights) and len(weights) == 2 * 4
    for name, weight in weights.items():
        theirs = released(weight, method) - weight.double()
        agree("uce", (changes[name].double() - theirs).abs().max() / theirs.abs().max(), 1e-5)


@pytest.mark.parametrize("tokens", ["last", "tail"])
def test_the_normal_equations_hold_to_1e_5(tokens):
    model, method = random_model(), uce(tokens=tokens, lam=0.1)
    rows = [paired_tokens(model, c, g, tokens) for c, g in method.pairs]
    C, G = (torch.cat(side).double() for side in zip(*rows, strict=True))
    kept = ("", *KEPT) if tokens == "tail" else KEPT
    P = kept_tokens(model, kept, tokens).double()
    M = 0.1 * torch.eye(C.shape[1]).double() + C.T @ C + P.T @ P
    for name, W in projections(model.denoiser).items():
        solved = W.double() + trained(method).tensors[name].double()
        right = 0.1 * W.double() + W.double() @ (G.T @ C + P.T @ P)
        assert (solved @ M - right).abs().max() <= 1e-5 * right.abs().max()


def test_erased_concepts_become_their_guides_as_lambda_vanishes():
    model, gaps = random_model(), []
    for lam in (1.0, 1e-2, 1e-6):
        method = uce(lam=lam, guides="tree", preserve=())
        E = method.edit(model)
        gap = 0.0
        for W in projections(model.denoiser).values():
            for text, guide in method.pairs:
                c, g = (side[0].double() for side in paired_tokens(model, text, guide, "last"))
                gap = max(gap, float((W.double() @ (c + E @ c - g)).norm() / (W.double() @ g).norm()))
        gaps.append(gap)
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-5


def test_what_is_preserved_moves_less():
    model = random_model()

    def moved(preserve: tuple[str, ...]) -> float:
        p = kept_tokens(model, KEPT, "last").double()
        return float((p @ uce(preserve=preserve, lam=1e-4).edit(model).T).norm())

    assert moved(KEPT) < 0.01 * moved(())


def test_empty_lists_change_nothing():
    assert not uce(erase=(), preserve=KEPT).trains and not uce(erase=(), preserve=()).trains
    with attached(random_model(), [uce(erase=())], [None]):
        pass
    empty = random_model().embed("")[:0]
    E = edit_matrix(empty, empty, kept_tokens(random_model(), KEPT, "last"), 1.0, 1.0, 0.5)
    assert not any(delta.any() for delta in deltas(random_model().denoiser, E).values())


def test_strength_scales_the_edit():
    model, artifact = random_model(), trained(uce())
    name, weight = next(iter(projections(model.denoiser).items()))
    before = weight.clone()
    with attached(model, [uce(strength=0.5)], [artifact]):
        assert torch.equal(weight, before + 0.5 * artifact.tensors[name])
    assert torch.equal(weight, before)


def test_half_precision_weights_come_back_to_the_bit():
    model = in_half_precision(random_model())
    before = checksum_half(model)
    with attached(model, [uce()], [stored(trained(uce()).tensors, model)]):
        assert model.denoiser.dtype == torch.bfloat16 and checksum_half(model) != before
    assert checksum_half(model) == before


def checksum_half(model) -> dict[str, bytes]:
    return {name: value.float().numpy().tobytes() for name, value in model.denoiser.state_dict().items()}


def test_solving_leaves_the_model_alone():
    before = checksum(random_model())
    trained(uce())
    assert checksum(random_model()) == before


def test_the_artifact_does_not_depend_on_the_prediction_type():
    with scheduled("ddim", "v_prediction"):
        other = trained(uce()).tensors
    assert all(torch.equal(other[name], value) for name, value in trained(uce()).tensors.items())


def test_the_last_subject_token_is_the_one_before_the_end():
    model = random_model()
    assert subject_index(model, "") == 0
    tokens = model.pipe.tokenizer("a doctor").input_ids
    assert tokens[subject_index(model, "a doctor")] == tokens[-2]
    assert subject_index(model, "bomb " * 200) == model.pipe.tokenizer.model_max_length - 2
    c, g = paired_tokens(model, "a doctor in a field", "", "tail")
    assert len(c) == len(g) == 77 - subject_index(model, "a doctor in a field")
    assert torch.equal(g[0], model.embed("")[0])


def test_expansion_puts_guides_into_the_same_templates():
    """As the current release; the first one (tokens=tail, and RECE's) expands what is erased alone."""
    pairs = expanded([("a bomb", ""), ("flame", "tree")], "object")
    assert len(pairs) == 12 and {("photo of flame", "photo of tree"), ("image of a bomb", "image of ")} < set(pairs)
    assert UCE("Monet", concept_type="art", expand_prompts=True).pairs[-1] == ("style of Monet", "style of art")
    first = UCE("Monet", concept_type="art", expand_prompts=True, tokens="tail")
    assert first.pairs[-1] == ("style of Monet", "art")


@pytest.mark.parametrize("preserve", [(), ("tree",), ("", "tree", "tree"), ("tree", "")])
def test_the_first_release_keeps_the_empty_text_once_and_then_what_is_preserved(preserve):
    named = tuple(text for text in dict.fromkeys(preserve) if text)
    assert uce(tokens="tail", preserve=preserve).kept == ("", *named)
    assert uce(preserve=preserve).kept == preserve


def test_names_to_preserve_come_from_a_file_less_what_is_erased(tmp_path):
    """As RECE's release takes those of ESD's list of 1,734 artists."""
    table = tmp_path / "artists.csv"
    table.write_text(",case_number,prompt,evaluation_seed,artist\n0,0,a b,1,Monet\n1,1,b c,2,Monet\n2,2,c,3,Dali\n")
    lines = tmp_path / "artists.txt"
    lines.write_text("Monet\nDali\n\nMonet\n")
    for file in (table, lines):
        method = UCE("dali", preserve=["tree"], preserve_file=str(file))
        assert method.kept == ("tree", "Monet") and method.missing() is None
    moved = tmp_path / "moved.txt"
    moved.write_bytes(lines.read_bytes())
    assert UCE("dali", preserve_file=str(moved)).identity() == UCE("dali", preserve_file=str(lines)).identity()
    assert UCE("dali", preserve_file=str(lines)).identity() != UCE("dali").identity()
    assert "preserve_file" not in UCE("dali").identity()["params"]
    assert "nowhere.csv is missing" in str(UCE("dali", preserve_file="nowhere.csv").missing())
    table.write_text("name\nMonet\n")
    with pytest.raises(InvalidValueError, match="a column 'artist'"):
        UCE("dali", preserve_file=str(table)).listed()


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"erase": "  "}, InvalidValueError, "expected a text, or a list of texts"),
    ({"erase": ["bomb", ""]}, InvalidValueError, "expected a text, or a list of texts"),
    ({"erase": 3}, InvalidValueError, "a text, or a list of texts"),
    ({"guides": ["a", "b"]}, InvalidValueError, "2 texts for 3 erased concepts"),
    ({"lam": -1}, InvalidValueError, "method.lam=-1"),
    ({"expand_prompts": "yes"}, InvalidValueError, "true or false"),
    ({"tokens": "first"}, UnknownNameError, "last"),
    ({"concept_type": "objects"}, UnknownNameError, "object"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said) as caught:
        uce(**change)
    assert "\n" not in str(caught.value)


def test_a_singular_matrix_is_one_line():
    with pytest.raises(InvalidValueError, match=r"singular matrix.*method\.lam"):
        trained(uce(lam=0))


def test_other_families_are_refused():
    with pytest.raises(IncompatibleError, match="cross-attention to CLIP texts; model big is sd3"):
        uce().check({"name": "big", "family": "sd3"}, 5.0)


def test_strength_reuses_the_solution_and_the_recipe_does_not():
    assert uce(strength=0.3).training_identity() == uce().training_identity()
    assert uce(lam=0.3).training_identity() != uce().training_identity()


def test_the_erased_word_draws_what_its_guide_draws_on_the_embedded_model():
    from harness.sampling.prediction_types import predict_epsilon

    model = micro_model()
    method = UCE(["skull"], guides="tree", preserve=["", "tree", "doctor", "field"], tokens="tail")
    artifact = trained(method, model)
    z, t = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(700)

    def towards_tree() -> float:
        skull, tree, none = (predict_epsilon(model, model.pipe.scheduler, z, t, model.encode([text] * 4))
                             for text in ("a skull", "a tree", ""))
        return float(torch.nn.functional.cosine_similarity((skull - none).flatten(), (tree - none).flatten(), dim=0))

    with torch.no_grad():
        before = towards_tree()
        with attached(model, [method], [artifact]):
            after = towards_tree()
    assert after > before + 0.1
