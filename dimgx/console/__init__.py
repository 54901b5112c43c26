"""The command: what people write, what is done about it, and what they see. Only `cli` uses it."""
