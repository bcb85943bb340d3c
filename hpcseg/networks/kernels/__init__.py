"""Triton kernels of the networks; imported only where they run (`hpcseg.kernels.run_on`), since they import Triton."""
