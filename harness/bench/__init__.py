"""Prompt rows from cards: contract 4."""

from harness.bench.card import Card, find_card
from harness.bench.loader import PromptSet, load_prompts
from harness.bench.settings import PROMPT_KEYS

__all__ = ["PROMPT_KEYS", "Card", "PromptSet", "find_card", "load_prompts"]
