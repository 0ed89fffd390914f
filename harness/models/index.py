"""What a pipeline's model_index.json names: parts that are never read, and the one setting that changes pixels."""

from __future__ import annotations

INDEX = "model_index.json"
UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
FORCED_ZEROS = "force_zeros_for_empty_prompt"  # of SDXL: embeddings where there is no negative prompt
