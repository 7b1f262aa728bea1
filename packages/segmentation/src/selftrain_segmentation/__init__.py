"""Semantic segmentation for selftrain: the task, its metric, and the index-mask data source."""
