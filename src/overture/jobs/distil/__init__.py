"""Shorter forms of what is known: a long text as a memory, a prompt with fewer values."""
