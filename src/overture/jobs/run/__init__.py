"""What every job shares: the request, its rows and model, the training loop, what is kept."""
