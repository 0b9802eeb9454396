"""How good a prompt is, and how sure that is. Numerical libraries are imported only when something is computed."""
