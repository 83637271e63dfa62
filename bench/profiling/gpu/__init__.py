"""What `bench.gpu_suite` measures, a part a file; how it may be cut off and go on is in suite.py."""
