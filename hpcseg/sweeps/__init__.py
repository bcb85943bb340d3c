"""Sweep file to runs to plan to jobs to evidence-based status."""
