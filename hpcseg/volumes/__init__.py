"""Scans on disk to cases to chunk stores; folds and nested subsets."""
