"""Baselines for prompts: the model as it is, examples, a linear head, BitFit, LoRA, full fine-tuning."""
