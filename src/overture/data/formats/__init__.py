"""File formats: containers (how records lie in a file) and shapes (the fields of a record). One file for each."""
