"""The effects of a prompt: shifts, parts that matter, changed rows, and checks of the explanation itself."""
