"""Parts of `tools/benchmark.py`: models, measurements, agreement checks and reports."""
