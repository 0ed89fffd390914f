"""Small stand-ins for real weights: random, and so named. Scores made with them mean nothing."""

from __future__ import annotations

import numpy as np

from harness.evaluators.extractor import FeatureExtractor
from harness.records import ImageKey, ScoreItem


def random_clip(folder, seed=0, width=32, image_size=32):
    """Save a tiny CLIP with random weights, the micro tokenizer and preprocessing; return its folder as a string."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    from harness.micro.bpe import write_tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, projection_dim=width, **shape,
    )  # fmt: skip
    vision = CLIPVisionConfig(image_size=image_size, patch_size=8, projection_dim=width, **shape)
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=width))
    for parameter in model.parameters():  # the default initialisation gives nearly the same feature for any input
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    side = {"height": image_size, "width": image_size}
    CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=side).save_pretrained(folder)
    return str(folder)


def picture(seed, size=(32, 32)):
    """Return a noisy (H, W, 3) uint8 image of a colour of its own."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 156, 3)
    return (rng.integers(0, 100, (size[1], size[0], 3)) + colour).astype(np.uint8)


def item(seed, image=None, prompt=None, meta=None, baseline=None):
    """Return one image to judge."""
    image = picture(seed) if image is None else image
    return ScoreItem(ImageKey(f"p{seed:03d}", 0), prompt or f"prompt {seed}", (), meta or {}, image, baseline)


class ColourFeatures(FeatureExtractor):
    """The mean colour of an image: a stand-in for Inception, and no measure of fidelity."""

    name = "colour"

    def identity(self):
        return {"features": "mean colour"}

    def setup(self, device):
        pass

    def features(self, images):
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)


VQA_WORDS = ("Yes", "No", ":", "?", ".", '"', "Does", "this", "figure", "show", "Please", "answer", "yes", "or", "no",
             "a", "red", "house", "tree", "at", "night", "and", "two", "dogs")  # fmt: skip
TEMPLATE = ("{% for m in messages %}USER {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
            "{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT{% endif %}")


def random_llava(folder, words=VQA_WORDS, template=TEMPLATE, seed=0):
    """Save a tiny LLaVA with random weights, a tokenizer of words and a chat template; return its folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    known = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "USER", "ASSISTANT", *words]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **shape),
        text_config=LlamaConfig(vocab_size=len(known), max_position_embeddings=256, pad_token_id=1, bos_token_id=2,
                                eos_token_id=3, **shape),
        image_token_index=known.index("<image>"),
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    pixels = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(pixels, tokenizer, patch_size=8, vision_feature_select_strategy="default",
                   num_additional_image_tokens=1, chat_template=template).save_pretrained(folder)  # fmt: skip
    return str(folder)
