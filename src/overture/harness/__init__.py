"""The model `overture` for EleutherAI's lm-evaluation-harness; `overture.harness.model` registers it."""
