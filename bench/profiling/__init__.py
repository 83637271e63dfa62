"""Cost of a training step: time and memory, its phases, traces, benchmarks."""
