"""Tune a prompt, measure it against the model as it is and with examples, keep it."""
