"""Augment-S1 for selftrain: flip, scale jitter and crop in one resampling per image, exact for masks and boxes."""
