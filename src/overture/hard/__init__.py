"""Prompts of words: proposers, a scorer on kept texts, and the race between candidates."""
