"""Proposers of prompts of words, one file each."""
