"""Which prompt and repeat an image belongs to, by the name that another script gave it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.bench import PromptSet
from harness.bench.ids import IdFinder
from harness.errors import HarnessError, InvalidValueError, unknown_name
from harness.lib.formatting import counted
from harness.lib.image_files import READ, ImageFolder
from harness.records import ImageKey, PromptRow

DEFAULT = "{prompt_id}_{repeat}"
_PLACES = {"prompt_id": "(?P<prompt_id>[^/]+?)", "repeat": r"(?P<repeat>\d+)", "seed": r"(?P<seed>\d+)",
           "category": "(?P<category>[^/]+?)", "any": "[^/]*?"}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """Images of prompts that are used, what is to be said of their names, and how many are of none, or of one left out.
    """

    files: Mapping[ImageKey, Path]
    n_other: int
    n_excluded: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Match:
    """An image of a prompt that is used, with the number in its name, None if it has none."""

    prompt_id: str
    number: int | None
    path: Path


@dataclass(frozen=True)
class _Matches:
    found: Sequence[_Match]
    n_other: int
    n_excluded: int
    seeds: bool  # the pattern says that the numbers are seeds


def images_by_name(folder: ImageFolder, text: str, prompts: PromptSet, repeats: int) -> Named:
    """Find the images of the prompts by a pattern of their paths. Raises HarnessError.

    `text` has {prompt_id}, and may have {repeat}, {seed}, {category} and {any}. Where no image fits, a pattern without
    folders is tried on the names of files in subfolders, and for the default pattern the id alone.
    """
    patterns = [_pattern(text), *([_pattern("{prompt_id}")] if text == DEFAULT else [])]
    ways = [(pattern, False) for pattern in patterns]
    ways += [(pattern, True) for pattern in patterns if "/" not in text]
    matches = [_match(folder, pattern, prompts, by_file) for pattern, by_file in ways[:1]]
    for pattern, by_file in ways[1:]:
        if not matches[-1].found:
            matches.append(_match(folder, pattern, prompts, by_file))
    best = next((one for one in matches if one.found), matches[0])
    _check_once(folder, best.found)
    rows = {row.prompt_id: row for row in prompts.rows}
    keys, notes = _keys(best, rows, repeats)
    files = dict(zip(keys, (match.path for match in best.found), strict=True))
    return Named(files, best.n_other, best.n_excluded, tuple(notes))


def _pattern(text: str) -> re.Pattern[str]:
    if "{prompt_id}" not in text:
        raise InvalidValueError(f"bench.pattern={text}: it must have {{prompt_id}}, and may have {{repeat}}, {{seed}}, "
                                "{category} and {any}.")
    made, end = "", PurePosixPath(text).suffix
    text = text.removesuffix(end) if end.lower() in READ else text
    for part in re.split(r"(\{\w+\})", text):
        place = part[1:-1] if re.fullmatch(r"\{\w+\}", part) else None
        if place is not None and place not in _PLACES:
            raise unknown_name("place in bench.pattern", place, _PLACES)
        made += _PLACES[place] if place is not None else re.escape(part)
    try:
        return re.compile(made)
    except re.error as error:
        raise InvalidValueError(f"bench.pattern={text}: {error}.") from None


def _match(folder: ImageFolder, pattern: re.Pattern[str], prompts: PromptSet, by_file: bool) -> _Matches:
    """Match every image. `by_file`: by its name alone, where no folder above it names a category that is not its own.
    """
    rows = {row.prompt_id: row for row in prompts.rows}
    excluded = {prompt_id for names in prompts.excluded_ids.values() for prompt_id in names}
    finder = IdFinder(prompts.sources or {prompt_id: prompt_id for prompt_id in (*rows, *excluded)})
    known = {_plain(name) for row in prompts.rows for name in row.category}
    matches, n_other, n_excluded = [], 0, 0
    for path in folder.images:
        inside = path.relative_to(folder.folder)
        match = pattern.fullmatch(path.stem if by_file else inside.with_suffix("").as_posix())
        prompt_id = finder.find(match["prompt_id"]) if match else None
        groups = match.groupdict() if match else {}
        folders = {_plain(part) for part in inside.parts[:-1]} & known if by_file else set()
        folders |= {_plain(groups["category"])} if "category" in groups else set()
        if prompt_id in excluded:
            n_excluded += 1
        elif prompt_id is None or not folders <= {_plain(name) for name in rows[prompt_id].category}:
            n_other += 1
        else:
            number = groups.get("repeat") or groups.get("seed")
            matches.append(_Match(prompt_id, None if number is None else int(number), path))
    return _Matches(matches, n_other, n_excluded, "seed" in pattern.groupindex)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _check_once(folder: ImageFolder, matches: Sequence[_Match]) -> None:
    counts = Counter((match.prompt_id, match.number) for match in matches)
    double = {key for key, count in counts.items() if count > 1}
    if double:
        twice = [str(match.path.relative_to(folder.folder)) for match in matches
                 if (match.prompt_id, match.number) == min(double, key=str)]
        raise HarnessError(f"{folder.folder} has several files for {counted(len(double), 'image')}, such as "
                           f"{' and '.join(twice[:2])}.",
                           "Each image needs its own file; bench.pattern can be more specific, such as "
                           "{category}/{prompt_id}_{repeat}.")


def _keys(matches: _Matches, rows: Mapping[str, PromptRow], repeats: int) -> tuple[list[ImageKey], list[str]]:
    """Return each image's key, and notes on the numbers in the names."""
    matched = matches.found
    numbers = [match.number or 0 for match in matched]
    of: dict[str, set[int]] = defaultdict(set)
    for match, number in zip(matched, numbers, strict=True):
        of[match.prompt_id].add(number)
    most, distinct = max(map(len, of.values()), default=0), sorted(set(numbers))
    seeds = matches.seeds or _are_seeds(of, rows)
    if not seeds and not (most == 1 and repeats == 1) and (len(of) == 1 or _are_repeats(len(matched), distinct, most)):
        return [ImageKey(match.prompt_id, distinct.index(match.number or 0)) for match in matched], []
    ranked = {name: sorted(numbers_of, key=lambda number, name=name: (number != rows[name].seed, number))  # type: ignore[misc]
              if seeds else sorted(numbers_of) for name, numbers_of in of.items()}
    keys = [ImageKey(match.prompt_id, ranked[match.prompt_id].index(number))
            for match, number in zip(matched, numbers, strict=True)]
    return keys, _said(seeds, most, distinct, ranked, rows)


def _are_seeds(of: Mapping[str, set[int]], rows: Mapping[str, PromptRow]) -> bool:
    """Return whether each prompt has one image, whose number is the row's seed, and the seeds differ."""
    seeds = {name: rows[name].seed for name in of}
    return len(set(seeds.values())) > 1 and all(numbers == {seeds[name]} for name, numbers in of.items())


def _are_repeats(n_images: int, distinct: Sequence[int], most: int) -> bool:
    """Return whether prompts share their numbers, which are about as many as the images of one."""
    return len(distinct) < n_images and len(distinct) <= 2 * most


def _said(seeds: bool, most: int, distinct: Sequence[int], ranked: Mapping[str, Sequence[int]],
          rows: Mapping[str, PromptRow]) -> list[str]:
    if len(distinct) < 2:
        return []
    images = "one image per prompt" if most == 1 else f"up to {most} images per prompt, in the order of the numbers"
    kind = "a seed" if seeds else "not a repeat, since prompts do not share it"
    notes = [f"the number in the images' names is {kind}: {images}"]
    strange = [name for name, numbers in ranked.items() if seeds and rows[name].seed not in (None, numbers[0])]
    return notes + ([f"{counted(len(strange), 'prompt')} with images of another seed than the row's"]
                    if strange else [])
