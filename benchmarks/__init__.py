"""Benchmarks: ratios from interleaved runs, never times. docs/benchmarks.md says what they show."""
