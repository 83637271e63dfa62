"""Cost of a training step: time and memory, breakdown by part, traces, benchmarks."""
