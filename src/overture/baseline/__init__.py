"""What prompts are compared with: the model as it is, examples, a linear head, BitFit, LoRA, full fine-tuning."""
