"""How does a client scale the gradients of a batch? Client-side mechanisms: one file per mechanism."""
