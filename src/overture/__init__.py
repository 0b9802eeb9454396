"""Overture: tune the prompt, keep the model."""

__version__ = "0.1.0"
