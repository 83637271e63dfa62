"""Execution of a sweep on this machine: session, launcher, worker, dry run, progress."""
