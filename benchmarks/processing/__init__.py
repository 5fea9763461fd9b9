"""What a JAX function over stored arrays costs."""
