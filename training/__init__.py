"""Training PP-ATD-light and ATD-light: patches in, weights out (``ppsr-train``)."""
