"""Set-up of a computing process: torch's global state, provenance, and the ranks of one run."""
