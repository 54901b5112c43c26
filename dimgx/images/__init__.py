"""Images as results: their layers, what describes them, and where they come from."""
