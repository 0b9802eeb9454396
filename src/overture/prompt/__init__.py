"""Prompt methods: how a prompt's values are parameterised, where they enter, how they start."""
