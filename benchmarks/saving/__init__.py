"""What it costs to save every draw of a running program."""
