"""The jobs of a user, each resumable: api > search | compare | transfer | distil > tune | verdict > run."""
