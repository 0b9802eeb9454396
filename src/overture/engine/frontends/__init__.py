"""What enters a model, by modality."""
