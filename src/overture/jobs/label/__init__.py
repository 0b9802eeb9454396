"""Which rows to label next, and a prompt that learns from them while they are labelled."""
