"""Optuna over runs, on top of bench.execution."""
