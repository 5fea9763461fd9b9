"""Process: a JAX function over stored arrays, in bounded memory, exactly once."""
