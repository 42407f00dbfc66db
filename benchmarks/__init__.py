"""Ratios against peers measured in the same run: ``python -m benchmarks.NAME`` prints a table with DESIGN's budgets."""
