"""Image classification: the task, its metric, and its data sources."""
