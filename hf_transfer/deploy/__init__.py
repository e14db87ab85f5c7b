"""Out of the run directory: predict, demonstrate, export, quantize, publish."""
