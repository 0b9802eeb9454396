"""Task files of other projects, translated into ours; nothing in them ever runs."""

from overture.data.foreign.lm_eval import task_of_lm_eval
from overture.data.foreign.promptsource import task_of_promptsource

__all__ = ["task_of_lm_eval", "task_of_promptsource"]
