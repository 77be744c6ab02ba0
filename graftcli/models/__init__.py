"""Networks: loading them, tracing them, and where to cut them. Nothing here knows images or training."""
