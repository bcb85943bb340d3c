"""From results to tables: cells, statistics, rendering."""
