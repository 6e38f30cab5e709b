"""What can differ: designs, kernels, module parameters."""
