"""The paper's recipe: loop, optimizer, checkpoints, initialization, diagnostics."""
