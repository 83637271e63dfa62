"""A trained model under a protocol: metrics, baselines, the overfit check."""
