"""Inputs of a model, one module for each modality."""
