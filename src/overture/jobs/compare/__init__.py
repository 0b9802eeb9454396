"""Ways to adapt a model side by side: plan, cells, costs."""
