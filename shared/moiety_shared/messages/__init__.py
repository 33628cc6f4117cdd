"""What goes over a wire, or is handed over as a file: one codec for each."""
