"""What commands show of plans and runs, as tables and bars. Pure of any work."""
