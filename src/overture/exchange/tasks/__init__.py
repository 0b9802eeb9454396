"""Task files of other projects, translated into ours; nothing in them ever runs."""
