"""Errors, types, options, files and seeds: what every layer stands on."""
