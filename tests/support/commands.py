"""A spec of two small runs, and the command that runs it."""

from __future__ import annotations

SPEC = """# Does the patch matter?
base: freesplatter
grid: {model.encoder.patch: [4, 8]}
set:
  model: {encoder.width: 48, aggregator: {blocks: 1, heads: 2}}
  train: {steps: 60, batch: 2, warmup_steps: 5, checkpoint_every: 10}
  data: {name: procedural, training_scenes: 16, validation_scenes: 16, evaluation_scenes: 16}
  evaluation.scenes: 2
  losses.lpips: null
"""
