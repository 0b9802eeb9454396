"""Pages, charts and figures in words: records in, HTML and pictures out; never torch."""
