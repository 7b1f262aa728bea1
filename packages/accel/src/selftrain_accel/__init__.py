"""GPUs for selftrain: training and prediction on CUDA devices and on Apple's MPS."""
