"""Measures dimgx against copying, decoding and other tools: `python -m benchmarks --help`."""
