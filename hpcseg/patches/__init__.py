"""Chunk store to foveal minibatches."""
