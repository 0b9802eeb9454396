"""Images and sounds of rows."""
