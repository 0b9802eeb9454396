"""One frozen model and its prompts over HTTP: a gateway without torch, and a worker process with the model."""
