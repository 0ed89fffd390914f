"""Checkpoints of methods: fetched by the names that each loader reads, and wrong ones refused in the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.cells.fetching import prefetch
from harness.cells.job import Job
from harness.cells.proposed_sampling import KEY as PROPOSAL
from harness.errors import HarnessError
from harness.lib.paths import conf_dir
from harness.lib.targets import build
from harness.sampling.session import attached
from methods.advunlearn import AdvUnlearn
from methods.concept_steerers import ConceptSteerers
from methods.mace import MACE
from methods.saeuron import SAeUron
from methods.salun import SalUn
from methods.spm import SPM
from tests.cli.test_prefetch_files import LOCAL
from tests.methods import test_methods_concept_steerers as steerers
from tests.methods import test_methods_saeuron as saeuron
from tests.methods import test_methods_spm as spm
from tests.methods.test_methods_advunlearn import encoder
from tests.methods.test_methods_unet_checkpoint import some_layers, unet
from tests.support.bench_common import read_yaml
from tests.support.fake_hub import FakeRepository
from tests.support.fixtures_models import random_config, random_model
from tests.support.methods_common import write_checkpoint

POINT = "unet.up_blocks.1.attentions.2"
UNET = "unet/diffusion_pytorch_model"
# What stands in a repository, the checkpoint that names it, and what is fetched. Names are those that the authors' own
# loaders read: SAeUron's Sae.load_from_hub, steerers' k_sparse_autoencoder.py, SPM's infer_spm.py, diffusers for MACE.
REPOSITORIES = {
    "mace": (["model_index.json", f"{UNET}.safetensors", f"{UNET}.bin", "vae/diffusion_pytorch_model.safetensors"],
             "", [f"{UNET}.safetensors"]),
    "mace, a folder": (["nudity/LoRA_fusion_model/unet/diffusion_pytorch_model.bin", "nudity/other.bin"], "/nudity",
                       ["nudity/LoRA_fusion_model/unet/diffusion_pytorch_model.bin"]),
    "salun": (["diffusers-nsfw.pt", "compvis-nsfw.pt"], "/diffusers-nsfw.pt", ["diffusers-nsfw.pt"]),
    "concept_steerers": (["sd14/config.json", "sd14/state_dict.pth", "sd14/log.txt", "sdxl/state_dict.pth"], "/sd14",
                         ["sd14/config.json", "sd14/state_dict.pth"]),
    "saeuron": ([f"{POINT}/cfg.json", f"{POINT}/sae.safetensors", "unet.up_blocks.1.attentions.1/sae.safetensors",
                 "lr_scheduler.pt"], "", [f"{POINT}/cfg.json", f"{POINT}/sae.safetensors"]),
    "saeuron, its folder": ([f"{POINT}/cfg.json", f"{POINT}/sae.safetensors"], f"/{POINT}",
                            [f"{POINT}/cfg.json", f"{POINT}/sae.safetensors"]),
    "spm": (["nudity/nudity_last.safetensors", "nudity/nudity_100.safetensors", "cat/cat_last.safetensors"], "/nudity",
            ["nudity/nudity_last.safetensors"]),
    "spm, the root": (["nudity_last.safetensors", "README.md"], "", ["nudity_last.safetensors"]),
    "published_unet": (["esd-nudity.safetensors", "esd-van_gogh.safetensors"], "/esd-nudity.safetensors",
                       ["esd-nudity.safetensors"]),
    "advunlearn": (["TextEncoder-nudity.pt", "nudity_unlearned/model.safetensors"], "/TextEncoder-nudity.pt",
                   ["TextEncoder-nudity.pt"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REPOSITORIES)
def test_a_checkpoint_of_the_hub_is_fetched_by_the_files_that_its_loader_reads(hub, case):
    held, place, wanted = REPOSITORIES[case]
    hub.repositories["models/owner/name"] = FakeRepository({name: name.encode() for name in held})
    method = read_yaml(conf_dir() / "method" / f"{case.split(',')[0]}.yaml") | {"checkpoint": f"hf://owner/name{place}"}
    method.pop(PROPOSAL, None)
    extra = {"activations": "hf://owner/name/activations.safetensors"} if "activations" in method else {}
    if extra:
        hub.repositories["models/owner/name"].files["activations.safetensors"] = b"x"
    method |= extra | ({"concept": "a", "layer": 9} if "concept" in method else {})
    assert build(method).missing() is not None
    prefetch([Job({}, LOCAL, (method,), {"name": "micro_i2p"}, (), None)])
    fetched = sorted(name.split("/", 2)[2] for name in hub.downloads)
    assert fetched == sorted([*wanted, *(["activations.safetensors"] if extra else [])])
    assert build(method).missing() is None
    assert all(file.read_bytes().decode().endswith(file.name) for file in build(method).files()
               if file.name != "activations.safetensors")  # fmt: skip


def test_a_repository_without_the_files_says_which_are_looked_for(hub):
    hub.repositories["models/owner/name"] = FakeRepository({"model.safetensors": b"x"})
    given = {"checkpoint": "hf://owner/name", "concept": "a", "layer": 9}
    method = read_yaml(conf_dir() / "method" / "concept_steerers.yaml") | given
    with pytest.raises(HarnessError, match=r"no state_dict\.pth in owner/name"):
        prefetch([Job({}, LOCAL, (method,), {"name": "micro_i2p"}, (), None)])


def wrapped() -> dict[str, torch.Tensor]:
    """Return what the release's CustomTextEncoder saves: the encoder, and its parts once more by their own names."""
    own = encoder("text_model.")
    twice = {name.removeprefix("text_model.").replace("embeddings.", "embedding.", 1): value
             for name, value in own.items()}  # fmt: skip
    return {f"text_encoder.{name}": value for name, value in own.items()} | twice


def test_advunlearns_own_file_is_the_same_encoder(tmp_path):
    file = write_checkpoint(tmp_path / "TextEncoder-text_encoder_full-epoch_999.pt", wrapped())
    published = encoder()
    method = AdvUnlearn(str(file))
    method.check(random_config(), 5.0)
    with attached(random_model(), [method], [None]):
        for name, value in random_model().pipe.text_encoder.named_parameters():
            assert torch.equal(value, published["text_model." + name.removeprefix("text_model.")])


def steerer(folder: Path, width: int) -> ConceptSteerers:
    return ConceptSteerers(steerers.write(folder, steerers.autoencoder(width)), concept="a", layer=1)


def sae(folder: Path, width: int = saeuron.WIDTH, features: int = saeuron.FEATURES, nested: bool = True, **changes
        ) -> SAeUron:  # fmt: skip
    save_file(saeuron.gathered(features), folder / "activations.safetensors")
    place = saeuron.write(folder / "sae", saeuron.tensors(width), nested, d_in=width, num_latents=saeuron.FEATURES)
    settings = {"hookpoint": saeuron.POINT, "concepts": ["bomb"],
                "activations": str(folder / "activations.safetensors")}  # fmt: skip
    return SAeUron(place, **settings | changes)


def written(cls, name: str, make):
    return lambda folder: cls(str(write_checkpoint(folder / name, make())))


def without_one(tensors):
    return dict(list(tensors.items())[1:])


WRONG = {
    "spm of another model": (lambda folder: SPM(spm.write(folder / "a_last.safetensors", {
        name: torch.cat([value, value], 1) if name.endswith("lora_down.weight") else value
        for name, value in spm.adapters().items()})), "was made for|has shape"),
    "spm in part": (lambda folder: SPM(spm.write(folder / "a_last.safetensors", without_one(spm.adapters()))),
                    "is missing"),
    "spm is a unet": (written(SPM, "a_last.safetensors", some_layers), "does not say what it erases"),
    "mace is an spm": (lambda folder: MACE(spm.write(folder / "a.safetensors", spm.adapters())), "a LoRA or another"),
    "mace in part": (written(MACE, "a.safetensors", lambda: without_one(unet())), "is missing"),
    "mace of another model": (written(MACE, "a.safetensors", lambda: unet() | {
        "conv_in.weight": torch.zeros(8, 4, 3, 3)}), "conv_in.weight has shape"),
    "salun by other names": (written(SalUn, "a.pt", lambda: {
        f"model.diffusion_model.{name}": value for name, value in unet().items()}), "CompVis' names"),
    "salun is a text encoder": (written(SalUn, "a.pt", encoder), "for another method or model"),
    "advunlearn is a unet": (written(AdvUnlearn, "a.pt", unet), "for another method or model"),
    "advunlearn in part": (written(AdvUnlearn, "a.pt", lambda: without_one(wrapped())), "is missing"),
    "steerer of another model": (lambda folder: steerer(folder, 48), "has shape"),
    "steerer is a unet": (lambda folder: ConceptSteerers(steerers.write(folder, unet()), concept="a", layer=1),
                          "for another method or model"),
    "steerer is a bare unet": (lambda folder: ConceptSteerers(str(write_checkpoint(
        Path(steerers.write(folder)) / "state_dict.pth", unet()).parent), concept="a", layer=1), "has no state_dict"),
    "steerer's layer": (lambda folder: ConceptSteerers(steerers.write(folder), concept="a", layer=9), "layers 0 to 1"),
    "sae of another model": (lambda folder: sae(folder, 48), "reads 48 channels"),
    "sae's activations of another": (lambda folder: sae(folder, features=7), "the activations .* do not fit"),
    "sae's concept": (lambda folder: sae(folder, concepts=["bom"]), "Did you mean: bomb"),
    "sae's place": (lambda folder: sae(folder, nested=False, hookpoint="unet.up_blocks.7.attentions.0"),
                    "unknown method.hookpoint"),
    "sae's activations as a pickle": (lambda folder: sae(folder, activations=str(write_checkpoint(
        folder / "acts.pkl", saeuron.gathered()))), r"python -m harness convert .*acts\.pkl"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_checkpoint_is_one_line_in_the_plan(tmp_path, case):
    make, said = WRONG[case]
    with pytest.raises(HarnessError, match=said) as error:
        make(tmp_path).check(random_config(), 5.0)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize("text", ["[]", "{", '{"d_in": "many"}', '{"d_in": 32, "num_latents": 64, "k": 0}', "[" * 5000])
def test_an_autoencoder_with_broken_settings_is_one_line(tmp_path, text):
    method = sae(tmp_path)
    method.files()[1].write_text(text)
    with pytest.raises(HarnessError) as error:
        method.check(random_config(), 5.0)
    assert "cfg.json" in str(error.value) and "\n" not in str(error.value)


def test_right_checkpoints_pass_the_plan(tmp_path):
    for number, make in enumerate((lambda folder: SPM(spm.write(folder / "a_last.safetensors", spm.adapters())), sae,
                                   lambda folder: steerer(folder, steerers.WIDTH), written(SalUn, "a.pt", unet),
                                   written(AdvUnlearn, "a.pt", encoder))):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder).check(random_config(), 5.0)
