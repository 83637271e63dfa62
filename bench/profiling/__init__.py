"""What a step costs: time and memory, by part, traces, benchmarks."""
