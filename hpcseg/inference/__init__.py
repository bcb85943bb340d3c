"""Segment a volume on its own grid, and measure the result."""
