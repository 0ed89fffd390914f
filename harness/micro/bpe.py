"""Byte-pair tokenizer of the embedded world, in CLIP's own file format."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from harness.micro.words import all_words

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77


def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merge the most frequent pair until every word is one token; ties go to the lesser pair."""
    symbols = [[*word[:-1], word[-1] + "</w>"] for word in sorted(words)]
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in symbols):
        pairs = Counter(pair for parts in symbols for pair in pairwise(parts))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        symbols = [_merge(parts, best) for parts in symbols]
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def write_tokenizer(folder: Path, pad: str = END) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the transformers files to `folder`; return the tokenizer.

    Texts are filled up with `pad`: the end token as in Stable Diffusion 1, or `!` as in Stable Diffusion 2.
    """
    folder.mkdir(parents=True, exist_ok=True)
    byte_symbols = list(bytes_to_unicode().values())
    merges = learn_merges(all_words())
    entries = [*byte_symbols, *(s + "</w>" for s in byte_symbols), *("".join(m) for m in merges), START, END]
    vocab = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_LENGTH, pad_token=pad
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
