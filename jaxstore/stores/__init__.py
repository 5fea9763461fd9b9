"""Named arrays at rest: one protocol, one file per format."""
