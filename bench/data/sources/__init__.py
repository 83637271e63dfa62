"""One file, one value in a spec."""
