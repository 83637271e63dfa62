"""Exit codes of the commands; 1 and 2 are the usual ones of a Unix command."""

DONE = 0
SOME_FAILED = 1  # some runs failed; their logs are named
BAD_INPUT = 2  # a spec, file or option that the user can mend; nothing was lost
LOCKED = 75  # of a worker: another process holds the run
STOPPED = 130  # on request; what was done is kept
