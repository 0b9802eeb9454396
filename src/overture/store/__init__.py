"""Prompts on disk: the folder that holds one, and the store that holds many. Torch is imported only for tensors."""
