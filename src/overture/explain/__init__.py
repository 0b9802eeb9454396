"""What a prompt does: shifts, parts that matter, changed rows, and checks of the explanation itself."""
