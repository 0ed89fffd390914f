"""Adversarial prompts against the embedded world, and against nothing else: its hazards are harmless glyphs."""
