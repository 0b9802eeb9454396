"""Parts that every job shares: request, rows and model, the training loop, the stored manifest."""
