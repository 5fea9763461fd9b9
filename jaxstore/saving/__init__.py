"""Streaming arrays out of running programs into stores."""
