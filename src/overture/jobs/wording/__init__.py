"""Jobs on prompts of words: their search, the translation of a soft prompt, and the explanation of any prompt."""
