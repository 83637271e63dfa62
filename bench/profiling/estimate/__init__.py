"""What a run will cost, before it runs: FLOPs, memory and hours. Start at estimate.py."""
