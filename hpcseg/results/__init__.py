"""Collect results: tables and figures."""
