"""Object detection for selftrain. This version holds its place and offers no component yet."""
