"""GPU kernels of this room (Triton); each stands beside the same in torch, and is imported only where it runs."""
