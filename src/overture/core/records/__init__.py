"""Records that rooms hand to each other and that runs keep as JSON. Nothing here imports torch."""
