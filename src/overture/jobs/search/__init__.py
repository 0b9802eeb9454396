"""Method, place, length, learning rate and wording by measurement, within a budget."""
