"""What the daemon tells of itself: metrics (Prometheus) and logs (structlog)."""
