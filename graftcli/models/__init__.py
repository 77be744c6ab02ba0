"""Networks: loading, tracing and cutting them. Independent of images and training."""
