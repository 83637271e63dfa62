"""One run's folder: its layout, writers, lease, attempts and states. No torch."""
