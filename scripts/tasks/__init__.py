"""Task files: what scripts/prepare_tasks.py makes of benchmarks, once, for evaluation in training (docs/evaluation.md)."""
