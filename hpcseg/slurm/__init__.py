"""Every word that is spoken with Slurm: its commands, queue, accounting, nodes, and a job's environment."""
