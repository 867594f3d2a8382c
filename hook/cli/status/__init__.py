"""What builds are doing and have done: status, its live view, history, metrics, the log."""
