"""The loop, optimisers and checkpoints."""
