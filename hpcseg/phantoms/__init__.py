"""Making data: synthetic abdominal CTs with labels."""
