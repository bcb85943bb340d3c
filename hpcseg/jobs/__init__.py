"""What happens inside a job: it runs a stage, saves in time, and hands itself back to the queue."""
