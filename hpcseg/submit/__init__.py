"""How a plan is handed over: as processes of this machine, or as Slurm arrays."""
