"""Other programs' prompts and tasks: adapters of peft, arrays and JSON, tasks of lm-evaluation-harness."""
