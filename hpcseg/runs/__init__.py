"""What one run is on disk, who works on it, and what that proves."""
