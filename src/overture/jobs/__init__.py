"""What a user asks for, each resumable: api > search | compare | transfer | distil > tune | verdict > run."""
