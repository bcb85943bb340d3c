"""One training loop, its schedule and checkpoints, and the strategies."""
