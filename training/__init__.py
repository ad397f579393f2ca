"""Training the networks: patches in, weights out (``ppsr-train``)."""
