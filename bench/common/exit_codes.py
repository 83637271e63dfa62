"""Exit codes of the commands; 1 and 2 are the usual ones of a Unix command."""

DONE = 0
SOME_FAILED = 1  # some runs failed; their logs are named
BAD_INPUT = 2  # a spec, file or option that the user can correct; nothing was lost
LOCKED = 75  # of a worker: another process holds the run's lease
STOPPED = 130  # on request; checkpoints and results are kept
CLOSED_PIPE = 141  # 128 + SIGPIPE: the reader of the output has ended
