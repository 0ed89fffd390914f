"""Files of tensors that nobody should trust: headers of safetensors that lie, and pickles that are no tensors."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

GOOD = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
DATA = bytes(16)


def framed(header: bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def of(header: Any, data: bytes = DATA) -> bytes:
    return framed(json.dumps(header).encode(), data)


def entry(**changes: Any) -> bytes:
    return of({"w": GOOD["w"] | changes})


def two(first: list[int], second: list[int], data: int) -> bytes:
    """Return a file of two vectors of four numbers at these places."""
    return of(
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": first},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": second},
        },
        bytes(data),
    )


def lying_headers() -> dict[str, bytes]:
    """Return files by what is wrong with them; each must be refused."""
    deep = b'{"w":' + b"[" * 3000 + b"]" * 3000 + b"}"
    good = json.dumps(GOOD).encode()
    return {
        "nothing": b"",
        "three bytes": b"abc",
        "eight zeros": bytes(8),
        "length alone": framed(b"", b"", 40),
        "length of 2**63": framed(good, DATA, 2**63),
        "length past the end": framed(good, DATA, 10_000),
        "length of 200 MB": framed(good, DATA, 200_000_000),
        "length one short": framed(good, DATA, len(good) - 1),
        "a list": of([1, 2]),
        "a text": of("weights"),
        "a number": of(7),
        "null": of(None),
        "no JSON": framed(b"{w: 1}"),
        "3,000 deep": framed(deep),
        "100,000 deep": framed(b"[" * 100_000 + b"]" * 100_000),
        "not UTF-8": framed(b'{"\xff\xfe": 1}'),
        "a lone surrogate": framed(good.replace(b'"w"', b'"\\ud800"')),
        "a number of 6,000 digits": framed(good.replace(b"16", b"9" * 6000)),
        "NaN": framed(good.replace(b"16", b"NaN")),
        "a name twice": framed(good[:-1] + b"," + good[1:]),
        "a key twice": framed(good.replace(b"}}", b',"dtype":"F16"}}')),
        "a name of 5,000 characters": of({"w" * 5000: GOOD["w"]}),
        "no shape": of({"w": {"dtype": "F32"}}),
        "an entry that is a list": of({"w": [1]}),
        "an entry that is null": of({"w": None}),
        "an entry that is text": of({"w": "F32"}),
        "no dtype": of({"w": {"shape": [4], "data_offsets": [0, 16]}}),
        "an unknown dtype": entry(dtype="F99"),
        "a dtype that is a list": entry(dtype=["F32"]),
        "a dtype that is a number": entry(dtype=32),
        "a shape that is a text": entry(shape="2,2"),
        "a shape of texts": entry(shape=["2", "2"]),
        "a shape of fractions": entry(shape=[2.0, 2.0]),
        "a shape of truths": entry(shape=[True, True]),
        "a negative shape": entry(shape=[-2, -2]),
        "a huge shape": entry(shape=[2**40, 2**40]),
        "a shape beyond 64 bits": entry(shape=[10**30]),
        "100 dimensions": entry(shape=[1] * 100),
        "a shape of other size": entry(shape=[3, 3]),
        "a shape that is null": entry(shape=None),
        "offsets that are text": entry(data_offsets=["0", "16"]),
        "offsets as one text": entry(data_offsets="0-16"),
        "three offsets": entry(data_offsets=[0, 8, 16]),
        "no offsets": of({"w": {"dtype": "F32", "shape": [4]}}),
        "offsets the wrong way": entry(data_offsets=[16, 0]),
        "negative offsets": entry(data_offsets=[-16, 0]),
        "offsets out of range": entry(data_offsets=[1000, 1016]),
        "offsets that are null": entry(data_offsets=None),
        "nested offsets": entry(data_offsets=[[0], [16]]),
        "metadata of numbers": of({"__metadata__": {"a": 1}} | GOOD),
        "metadata as a list": of({"__metadata__": []} | GOOD),
        "metadata as a text": of({"__metadata__": "pt"} | GOOD),
        "metadata that nest": of({"__metadata__": {"a": {}}} | GOOD),
        "overlap": two([0, 16], [8, 24], 24),
        "the same place": two([0, 16], [0, 16], 16),
        "a gap": two([0, 16], [20, 36], 36),
        "cut short": of(GOOD, DATA[:-1]),
        "bytes more": of(GOOD, DATA + b"x"),
        "a pointer": b"version https://git-lfs.github.com",
        "a web page": b"<!DOCTYPE html><html>",
        "a zip": b"PK\x03\x04" + bytes(80),
        "a pickle": b"\x80\x02}q\x00." + bytes(80),
        "settings": b'{"a": 1}',
    }


def mutated(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield a good file with bytes of its header changed, left out or put in: some of them stay good."""
    draw = random.Random(seed)
    good = save({"conv_in.weight": np.zeros((2, 2), np.float32), "b": np.ones(3, np.float16)}, {"format": "pt"})
    for _ in range(count):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(min(len(data), 170))
            kind = draw.choice(("set", "cut", "add"))
            if kind == "set":
                data[place] = draw.choice(b'{}[]",:0919-e.tfn\x00\xff')
            elif kind == "cut":
                del data[place : place + draw.randint(1, 9)]
            else:
                data[place:place] = draw.choice([b"[", b'"', b"9" * 40, b"null", b"\\u0000", b"{}"])
        yield bytes(data)
