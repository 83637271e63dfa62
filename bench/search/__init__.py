"""Hyperparameter search with Optuna; each proposal is trained as a run by bench.execution."""
