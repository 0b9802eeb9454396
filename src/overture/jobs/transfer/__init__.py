"""Prompts that start others: several tasks, meta-learned starts, other models, adapters of peft."""
