"""Frozen models: live tokens and memory in, hidden states, losses and answers out."""
