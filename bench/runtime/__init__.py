"""What a computing process sets up: torch's global state, provenance, and the ranks of one run."""
