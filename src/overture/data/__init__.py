"""From a task file to batches of tokens: task, rows, splits, template, encoding, batches."""
