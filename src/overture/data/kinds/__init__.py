"""Kinds of tasks: what a right answer is, how a row is put to the model, how its answer is read. One file each."""
