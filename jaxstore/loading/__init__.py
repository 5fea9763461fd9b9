"""Load: stored rows as shuffled batches on devices, each row once per epoch."""
