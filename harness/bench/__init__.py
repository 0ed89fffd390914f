"""Prompt rows from cards: contract 4."""

from harness.bench.card import Card, find_card
from harness.bench.loader import PROMPT_KEYS, PromptSet, load_prompts

__all__ = ["PROMPT_KEYS", "Card", "PromptSet", "find_card", "load_prompts"]
